// Archives of `docker save` (manifest.json) and OCI layout (index.json): a tar is spooled entry by entry into files,
// and read as a list of images, each a config and its layer files. Entry names are only ever keys of a map.

import { createReadStream } from 'node:fs';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import tarStream from 'tar-stream';
import { AppFailure, appError } from '../../lib/result.js';
import { maxJsonBytes, readText } from '../oci/files.js';
import { spool } from './spool.js';

export interface ArchiveImage {
  readonly configBytes: Buffer;
  /** Spooled layer files, bottom first, possibly compressed. */
  readonly layerFiles: readonly string[];
  readonly names: readonly string[];
  readonly manifestDigest: string | undefined;
}

const maxEntries = 100_000;
const maxLayers = 127;
const maxImages = 1000;

function invalid(message: string): AppFailure {
  return new AppFailure(appError('invalid_argument', message));
}

/** Name inside the archive -> spooled file. */
async function spoolEntries(tarFile: string, directory: string): Promise<Map<string, string>> {
  const files = new Map<string, string>();
  const links = new Map<string, string>();
  const extract = tarStream.extract();
  const reading = pipeline(createReadStream(tarFile), extract as unknown as NodeJS.WritableStream);
  reading.catch(() => undefined);
  for await (const entry of extract) {
    const name = path.posix.normalize(entry.header.name).replace(/^\/+/, '');
    if (files.size + links.size >= maxEntries) throw invalid('archive has too many entries');
    if (entry.header.type === 'file') {
      const file = path.join(directory, `entry-${files.size}`);
      await spool(entry as unknown as AsyncIterable<Uint8Array>, file);
      files.set(name, file);
      continue;
    }
    if (entry.header.type === 'symlink') links.set(name, path.posix.join(path.posix.dirname(name), entry.header.linkname ?? ''));
    if (entry.header.type === 'link') links.set(name, path.posix.normalize(entry.header.linkname ?? ''));
    entry.resume();
  }
  await reading;
  // Old `docker save` shares layers by symlinks between image directories.
  for (const [name, target] of links) {
    const file = files.get(target);
    if (file !== undefined && !files.has(name)) files.set(name, file);
  }
  return files;
}

export async function readArchive(tarFile: string, directory: string): Promise<ArchiveImage[]> {
  const files = await spoolEntries(tarFile, directory).catch((error: unknown) => {
    if (error instanceof AppFailure || (error as NodeJS.ErrnoException).syscall !== undefined) throw error;
    throw invalid(`archive/tar: invalid tar header: ${(error as Error).message}`);
  });
  if (files.has('manifest.json')) return dockerImages(files);
  if (files.has('index.json')) return ociImages(files);
  throw invalid('open manifest.json: no such file or directory: the archive is neither of docker save nor an OCI layout');
}

async function readEntry(files: ReadonlyMap<string, string>, name: string): Promise<string> {
  const file = files.get(path.posix.normalize(name));
  const text = file === undefined ? undefined : await readText(file, maxJsonBytes);
  if (text === undefined) throw invalid(`invalid archive: ${name} is missing`);
  return text;
}

function parseJson<T>(text: string, what: string): T {
  try {
    return JSON.parse(text) as T;
  } catch (error) {
    throw invalid(`invalid archive: ${what}: ${(error as Error).message}`);
  }
}

function layerFiles(files: ReadonlyMap<string, string>, names: readonly unknown[]): string[] {
  if (names.length > maxLayers) throw invalid('max depth exceeded');
  return names.map((name) => {
    const file = typeof name === 'string' ? files.get(path.posix.normalize(name)) : undefined;
    if (file === undefined) throw invalid(`invalid archive: layer ${String(name).slice(0, 256)} is missing`);
    return file;
  });
}

async function dockerImages(files: ReadonlyMap<string, string>): Promise<ArchiveImage[]> {
  interface Item { Config?: string; RepoTags?: string[] | null; Layers?: string[] }
  const manifest = parseJson<Item[]>(await readEntry(files, 'manifest.json'), 'manifest.json');
  if (!Array.isArray(manifest) || manifest.length > maxImages) throw invalid('invalid archive: manifest.json is no list of images');
  const images: ArchiveImage[] = [];
  for (const item of manifest) {
    if (typeof item.Config !== 'string' || !Array.isArray(item.Layers)) throw invalid('invalid archive: manifest.json lacks Config or Layers');
    images.push({
      configBytes: Buffer.from(await readEntry(files, item.Config)),
      layerFiles: layerFiles(files, item.Layers),
      names: (item.RepoTags ?? []).map(String),
      manifestDigest: undefined,
    });
  }
  return images;
}

interface Descriptor {
  readonly mediaType?: string;
  readonly digest: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly platform?: { readonly os: string; readonly architecture: string };
}

const blobName = (digest: string): string => `blobs/${String(digest).replace(':', '/')}`;

async function ociImages(files: ReadonlyMap<string, string>): Promise<ArchiveImage[]> {
  const index = parseJson<{ manifests?: Descriptor[] }>(await readEntry(files, 'index.json'), 'index.json');
  const images: ArchiveImage[] = [];
  for (const descriptor of (index.manifests ?? []).slice(0, maxImages)) {
    const names = descriptor.annotations?.['io.containerd.image.name'] ?? descriptor.annotations?.['org.opencontainers.image.ref.name'];
    let digest = descriptor.digest;
    let manifest = parseJson<{ manifests?: Descriptor[]; config?: Descriptor; layers?: Descriptor[] }>(await readEntry(files, blobName(digest)), digest);
    if (manifest.manifests !== undefined) {
      const architecture = process.arch === 'x64' ? 'amd64' : process.arch;
      const own = manifest.manifests.find((item) => item.platform?.os === 'linux' && item.platform.architecture === architecture);
      if (own === undefined) throw invalid(`no image for linux/${architecture} in the archive`);
      digest = own.digest;
      manifest = parseJson(await readEntry(files, blobName(digest)), digest);
    }
    if (manifest.config === undefined || manifest.layers === undefined) throw invalid(`invalid archive: ${digest} is no image manifest`);
    images.push({
      configBytes: Buffer.from(await readEntry(files, blobName(manifest.config.digest))),
      layerFiles: layerFiles(files, manifest.layers.map((layer) => blobName(layer.digest))),
      names: names === undefined ? [] : [names],
      manifestDigest: digest,
    });
  }
  return images;
}
