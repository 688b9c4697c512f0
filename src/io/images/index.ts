// The image index: which images exist, under which names, and the layers they use. One JSON file, replaced by rename
// and synced; everything else under the images directory can be told to belong to an image or be garbage.

import path from 'node:path';
import { AppFailure, appError } from '../../lib/result.js';
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
  let parsed: { version?: number; images?: ImageRecord[] } | null;
  try {
    parsed = JSON.parse(text) as typeof parsed;
  } catch (error) {
    throw damaged(file, (error as Error).message);
  }
  if (parsed?.version !== indexVersion || !Array.isArray(parsed.images)) throw damaged(file, `it is not of version ${indexVersion}`);
  return parsed.images;
}

/** Not made again by itself: the names are nowhere else, and layers that no image names would be collected. */
function damaged(file: string, reason: string): AppFailure {
  return new AppFailure(appError('failed_precondition',
    `the image index ${file} is damaged (${reason}): restore it, or move ${path.dirname(file)} away and load the images again`));
}

export async function writeIndex(file: string, images: readonly ImageRecord[]): Promise<void> {
  await writeFileAtomic(file, JSON.stringify({ version: indexVersion, images }, undefined, 1));
}
