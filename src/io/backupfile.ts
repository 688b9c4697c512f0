// The file of a backup: some small files and what they belong to, whole or nothing.
//   magic "SKNBACK1", u32 length of the header (little endian), header: JSON, the files one after the other, SHA-256 of all
// The checksum finds a file that was cut or damaged; it proves nothing about who made it. Nothing is sealed or opened
// here: what a file held, it holds.

import { createHash } from 'node:crypto';

const MAGIC = Buffer.from('SKNBACK1', 'latin1');
const SUM_BYTES = 32;
const START = MAGIC.length + 4;

export interface BackupHeader {
  readonly nodeId: string;
  readonly clusterId: string;
  /** In ISO 8601. */
  readonly madeAt: string;
}

export interface Backup {
  readonly header: BackupHeader;
  /** By path in the directory that was backed up. */
  readonly files: ReadonlyMap<string, Buffer>;
}

interface Header extends BackupHeader {
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
}

function sumOf(parts: readonly Uint8Array[]): Buffer {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
}

/** To be written one after the other. */
export function encodeBackup({ header, files }: Backup): Buffer[] {
  const all: Header = { ...header, files: [...files].map(([name, content]) => ({ name, bytes: content.length })) };
  const json = Buffer.from(JSON.stringify(all));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(json.length);
  const parts = [MAGIC, length, json, ...files.values()];
  return [...parts, sumOf(parts)];
}

/** 'damaged': cut, longer, or changed anywhere. 'foreign': no backup at all. */
export function decodeBackup(bytes: Buffer): Backup | 'foreign' | 'damaged' {
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) return MAGIC.subarray(0, bytes.length).equals(bytes) ? 'damaged' : 'foreign';
  if (bytes.length < START + SUM_BYTES) return 'damaged';
  const headerEnd = START + bytes.readUInt32LE(MAGIC.length);
  const contents = bytes.subarray(0, -SUM_BYTES);
  if (headerEnd > contents.length || !sumOf([contents]).equals(bytes.subarray(-SUM_BYTES))) return 'damaged';
  const { files: list, ...header } = parse(bytes.subarray(START, headerEnd));
  let offset = headerEnd;
  const files = new Map(list.map(({ name, bytes: length }) => [name, bytes.subarray(offset, offset += length)]));
  return offset === contents.length ? { header, files } : 'damaged';
}

/** The checksum matched: it is what was written. Other text was never a header. */
function parse(json: Buffer): Header {
  try {
    return JSON.parse(json.toString()) as Header;
  } catch {
    return { nodeId: '', clusterId: '', madeAt: '', files: [] };
  }
}
