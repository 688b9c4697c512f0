// The image index: which images exist, under which names, and the layers they use. One JSON file, replaced by rename
// and synced; everything else under the images directory can be told to belong to an image or be garbage.

import { readText, writeFileAtomic } from '../oci/files.js';

export interface ImageRecord {
  readonly id: string;
  repoTags: string[];
  repoDigests: string[];
  readonly createdMs: number;
  readonly sizeBytes: number;
  /** Diff ids, bottom first. */
  readonly layers: readonly string[];
}

const indexVersion = 1;

export async function readIndex(file: string): Promise<ImageRecord[]> {
  const text = await readText(file, 64 * 1024 * 1024);
  if (text === undefined) return [];
  const parsed = JSON.parse(text) as { version: number; images: ImageRecord[] };
  if (parsed.version !== indexVersion) throw new Error(`${file}: unknown version ${parsed.version}`);
  return parsed.images;
}

export async function writeIndex(file: string, images: readonly ImageRecord[]): Promise<void> {
  await writeFileAtomic(file, JSON.stringify({ version: indexVersion, images }, undefined, 1));
}
