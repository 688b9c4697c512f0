// LocalImageStore: images unpacked under one directory, plus the pseudo image `host`.
//   index.json          names and layers          configs/<hex>.json   config bytes, whose sha256 is the image id
//   layers/<diff id>/   overlayfs lower layer     tmp/                 work in progress, emptied on start
// An image is listed only after its layers and config were renamed into place, so a crash leaves garbage, never half
// an image.

import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { AppFailure, appError } from '../../lib/result.js';
import type { ImageStore, ImageSummary } from '../../platform/executor.js';
import { ensureDirectory, exists, maxJsonBytes, readText, syncDirectory, writeFileAtomic } from '../oci/files.js';
import { type ArchiveImage, readArchive } from './archive.js';
import { applyChanges, type ImageConfig } from './changes.js';
import { type ImageRecord, readIndex, writeIndex } from './index.js';
import { unpackLayer } from './layer.js';
import { formatReference, parseReference } from '../../model/image-reference.js';
import { decompress, spool } from './spool.js';

const defaultPath = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export interface ImageRoot {
  /** Overlay lower layers, topmost first, relative to `layersDirectory` or absolute. */
  readonly layers: readonly string[];
  readonly layersDirectory: string;
  readonly isHost: boolean;
}

interface ConfigFile {
  os?: string;
  architecture?: string;
  created?: string;
  config?: ImageConfig | null;
  rootfs?: { diff_ids?: string[] };
}

export class LocalImageStore implements ImageStore {
  readonly #directory: string;
  #working = 0;
  #images: ImageRecord[] | undefined;
  #lock: Promise<unknown> = Promise.resolve();
  /** Image ids in use and by whom; set by the executor. */
  usage: () => ReadonlyMap<string, string> = () => new Map();

  constructor(directory: string) {
    this.#directory = directory;
  }

  async list(): Promise<readonly ImageSummary[]> {
    const images = await this.#load();
    // One that is damaged is no image to run, and no reason to list none; asked for by name it says what is wrong.
    const summaries = await Promise.all(images.map((image) => this.#summary(image).catch((error: unknown) => {
      if (error instanceof AppFailure) return [];
      throw error;
    })));
    return [...summaries.flat(), hostImage()];
  }

  async inspect(reference: string): Promise<ImageSummary | undefined> {
    const host = hostImage();
    if (isHost(reference, host.id)) return host;
    const image = find(await this.#load(), reference);
    return image === undefined ? undefined : this.#summary(image);
  }

  async root(imageId: string): Promise<ImageRoot> {
    const layersDirectory = this.#path('layers');
    if (imageId === hostImage().id) {
      await ensureDirectory(layersDirectory);
      return { layers: ['/'], layersDirectory, isHost: true };
    }
    const image = (await this.#load()).find((item) => item.id === imageId);
    if (image === undefined) throw new AppFailure(appError('not_found', `No such image: ${imageId}`));
    // A layer may occur twice in an image; overlayfs takes it only once, and the topmost decides.
    const layers = [...new Set([...image.layers].reverse().map(layerName))];
    if (layers.length === 0) {
      await ensureDirectory(path.join(layersDirectory, 'empty'), 0o755);
      layers.push('empty');
    }
    return { layers, layersDirectory, isHost: false };
  }

  load(tar: AsyncIterable<Uint8Array>): Promise<readonly string[]> {
    return this.#inTemporary(async (temporary) => {
      await spool(tar, path.join(temporary, 'input'));
      await decompress(path.join(temporary, 'input'), path.join(temporary, 'input.tar'));
      await rm(path.join(temporary, 'input'));
      const images = await readArchive(path.join(temporary, 'input.tar'), temporary);
      await rm(path.join(temporary, 'input.tar'));
      const names: string[] = [];
      for (const image of images) names.push(...(await this.#addArchiveImage(image, temporary)));
      return names;
    });
  }

  async importTar(
    tar: AsyncIterable<Uint8Array>,
    options: { readonly reference: string | undefined; readonly changes: readonly string[]; readonly message: string },
  ): Promise<string> {
    const tag = options.reference === undefined ? undefined : tagOf(options.reference);
    const config: ImageConfig = {};
    applyChanges(config, options.changes);
    return this.#inTemporary(async (temporary) => {
      const input = path.join(temporary, 'input');
      await spool(tar, input);
      const layer = await this.#addLayer(input, temporary, undefined);
      const created = new Date().toISOString();
      const file = {
        architecture: goArchitecture(), os: 'linux', created, config, comment: options.message,
        history: [{ created, comment: options.message }],
        rootfs: { type: 'layers', diff_ids: [layer.diffId] },
      };
      return this.#addImage(Buffer.from(JSON.stringify(file)), [layer], tag === undefined ? [] : [tag], undefined);
    });
  }

  remove(reference: string): Promise<boolean> {
    return this.#exclusive(async () => {
      const images = await this.#load();
      const image = find(images, reference);
      if (image === undefined) return false;
      const parsed = parseReference(reference);
      const byName = parsed !== undefined && image.repoTags.includes(formatReference({ ...parsed, digest: undefined }));
      if (byName && image.repoTags.length > 1) {
        await this.#save(images.map((item) =>
          item === image ? { ...item, repoTags: item.repoTags.filter((tag) => tag !== formatReference({ ...parsed, digest: undefined })) } : item));
        return true;
      }
      const user = this.usage().get(image.id);
      if (user !== undefined) {
        throw new AppFailure(appError('failed_precondition',
          `conflict: unable to remove repository reference "${reference}" (must force) - container ${user.slice(0, 12)} is using its referenced image ${image.id.slice(7, 19)}`));
      }
      await this.#save(images.filter((item) => item !== image));
      // A load in progress has layers that no image names yet; the next removal collects what is left.
      if (this.#working === 0) await this.#collectGarbage();
      return true;
    });
  }

  async #addArchiveImage(image: ArchiveImage, temporary: string): Promise<string[]> {
    const config = parseConfig(image.configBytes);
    const diffIds = config.rootfs?.diff_ids ?? [];
    if (diffIds.length !== image.layerFiles.length) {
      throw new AppFailure(appError('invalid_argument', `invalid manifest, layers length mismatch: expected ${image.layerFiles.length}, got ${diffIds.length}`));
    }
    const layers: { diffId: string; sizeBytes: number }[] = [];
    for (const [position, file] of image.layerFiles.entries()) layers.push(await this.#addLayer(file, temporary, diffIds[position]));
    const tags = image.names.map(tagOf);
    const id = await this.#addImage(image.configBytes, layers, tags, image.manifestDigest);
    return tags.length > 0 ? tags : [id];
  }

  async #addLayer(file: string, temporary: string, expected: string | undefined): Promise<{ diffId: string; sizeBytes: number }> {
    const tarFile = path.join(temporary, `layer-${randomBytes(6).toString('hex')}.tar`);
    const { digest, sizeBytes } = await decompress(file, tarFile);
    if (expected !== undefined && expected !== digest) {
      throw new AppFailure(appError('invalid_argument', `invalid diffID for layer: expected "${expected}", got "${digest}"`));
    }
    const target = path.join(this.#path('layers'), layerName(digest));
    if (!(await exists(target))) {
      const unpacked = `${tarFile}.d`;
      await mkdir(unpacked, { mode: 0o755 });
      await unpackLayer(tarFile, unpacked, `${tarFile}.wh`);
      // Another load of the same layer may have been faster: both are the same bytes.
      await rename(unpacked, target).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
      });
      await syncDirectory(this.#path('layers'));
    }
    await rm(tarFile);
    return { diffId: digest, sizeBytes };
  }

  #addImage(bytes: Buffer, layers: readonly { diffId: string; sizeBytes: number }[], tags: readonly string[], digest: string | undefined): Promise<string> {
    return this.#exclusive(async () => {
      const config = parseConfig(bytes);
      const hex = createHash('sha256').update(bytes).digest('hex');
      const id = `sha256:${hex}`;
      await writeFileAtomic(path.join(this.#path('configs'), `${hex}.json`), bytes);
      // A name moves from the image that had it to the new one.
      const others = (await this.#load()).map((item) => ({ ...item, repoTags: item.repoTags.filter((tag) => !tags.includes(tag)) }));
      const same = others.find((item) => item.id === id);
      const createdMs = Date.parse(config.created ?? '');
      const record: ImageRecord = {
        id,
        repoTags: [...new Set([...(same?.repoTags ?? []), ...tags])],
        repoDigests: [...new Set([...(same?.repoDigests ?? []), ...(digest === undefined ? [] : tags.map((tag) => `${tag.replace(/:[^:/]*$/, '')}@${digest}`))])],
        createdMs: Number.isNaN(createdMs) ? 0 : createdMs,
        sizeBytes: layers.reduce((sum, layer) => sum + layer.sizeBytes, 0),
        layers: layers.map((layer) => layer.diffId),
      };
      await this.#save([...others.filter((item) => item.id !== id), record]);
      return id;
    });
  }

  async #summary(image: ImageRecord): Promise<ImageSummary> {
    const bytes = await readText(path.join(this.#path('configs'), `${image.id.slice(7)}.json`));
    const lost = `image ${image.id} has lost its config: load it again`;
    if (bytes === undefined) throw new AppFailure(appError('failed_precondition', lost));
    const config = parseConfig(Buffer.from(bytes));
    const { id, repoTags, repoDigests, createdMs, sizeBytes } = image;
    return { id, repoTags, repoDigests, createdMs, sizeBytes, os: config.os ?? 'linux', architecture: config.architecture ?? goArchitecture(), config: config.config ?? {} };
  }

  async #collectGarbage(): Promise<void> {
    const images = await this.#load();
    const layers = new Set(['empty', ...images.flatMap((image) => image.layers.map(layerName))]);
    const configs = new Set(images.map((image) => `${image.id.slice(7)}.json`));
    for (const [folder, wanted] of [['layers', layers], ['configs', configs]] as const) {
      for (const name of await readdir(this.#path(folder))) {
        if (!wanted.has(name)) await rm(path.join(this.#path(folder), name), { recursive: true, force: true });
      }
    }
  }

  async #load(): Promise<ImageRecord[]> {
    if (this.#images === undefined) {
      await rm(this.#path('tmp'), { recursive: true, force: true });
      for (const folder of ['layers', 'configs', 'tmp']) await ensureDirectory(this.#path(folder));
      this.#images ??= await readIndex(this.#path('index.json'));
    }
    return this.#images;
  }

  async #save(images: ImageRecord[]): Promise<void> {
    await writeIndex(this.#path('index.json'), images);
    this.#images = images;
  }

  #path(name: string): string {
    return path.join(this.#directory, name);
  }

  async #inTemporary<T>(work: (temporary: string) => Promise<T>): Promise<T> {
    await this.#exclusive(() => this.#load());
    const temporary = path.join(this.#path('tmp'), randomBytes(8).toString('hex'));
    await mkdir(temporary, { mode: 0o700 });
    this.#working++;
    try {
      return await work(temporary);
    } finally {
      this.#working--;
      await rm(temporary, { recursive: true, force: true });
    }
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#lock.then(work, work);
    this.#lock = result.catch(() => undefined);
    return result;
  }
}

/** Short, so that many fit in overlayfs's option page; 128 bits of the digest are enough to be one of a kind. */
const layerName = (diffId: string): string => diffId.slice(7, 39);

function parseConfig(bytes: Buffer): ConfigFile {
  if (bytes.length > maxJsonBytes) throw new AppFailure(appError('resource_exhausted', 'image config is too large'));
  let parsed: ConfigFile;
  try {
    parsed = JSON.parse(bytes.toString('utf8')) as ConfigFile;
  } catch (error) {
    throw new AppFailure(appError('invalid_argument', `invalid image config: ${(error as Error).message}`));
  }
  const diffIds = parsed.rootfs?.diff_ids ?? [];
  if (!Array.isArray(diffIds) || !diffIds.every((id) => /^sha256:[0-9a-f]{64}$/.test(id))) {
    throw new AppFailure(appError('invalid_argument', 'invalid image config: rootfs.diff_ids'));
  }
  return parsed;
}

function tagOf(reference: string): string {
  const parsed = parseReference(reference);
  if (parsed === undefined || parsed.digest !== undefined) throw new AppFailure(appError('invalid_argument', 'invalid reference format'));
  return formatReference(parsed);
}

function find(images: readonly ImageRecord[], reference: string): ImageRecord | undefined {
  const parsed = parseReference(reference);
  if (parsed?.digest !== undefined) {
    const wanted = `${parsed.name}@${parsed.digest}`;
    const byDigest = images.find((image) => image.repoDigests.includes(wanted));
    if (byDigest !== undefined) return byDigest;
  }
  if (parsed?.tag !== undefined) {
    const wanted = formatReference({ ...parsed, digest: undefined });
    const byTag = images.find((image) => image.repoTags.includes(wanted));
    if (byTag !== undefined) return byTag;
  }
  const hex = reference.startsWith('sha256:') ? reference.slice(7) : reference;
  if (!/^[0-9a-f]{2,64}$/.test(hex)) return undefined;
  const byId = images.filter((image) => image.id.slice(7).startsWith(hex));
  return byId.length === 1 ? byId[0] : undefined;
}

function goArchitecture(): string {
  return process.arch === 'x64' ? 'amd64' : process.arch;
}

/** The machine's own root, read-only below a private upper layer. */
function hostImage(): ImageSummary {
  const config = { Env: [defaultPath], Cmd: ['/bin/sh'], Labels: { 'io.skein.image': 'host' } };
  const id = `sha256:${createHash('sha256').update(JSON.stringify({ host: os.arch(), config })).digest('hex')}`;
  return { id, repoTags: ['host:latest'], repoDigests: [], createdMs: 0, sizeBytes: 0, os: 'linux', architecture: goArchitecture(), config };
}

function isHost(reference: string, id: string): boolean {
  const parsed = parseReference(reference);
  return (parsed?.name === 'host' && parsed.tag === 'latest' && parsed.digest === undefined) || reference === id ||
    (/^[0-9a-f]{12,64}$/.test(reference) && id.slice(7).startsWith(reference));
}
