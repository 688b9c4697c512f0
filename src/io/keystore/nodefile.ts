// The file of a node's certificate and keys, certificates/swarm-node.pem: one file, so that a rename replaces all of it.
//   certificates              PEM, the node's own first
//   then, in the clear        PRIVATE KEY of the certificate; on a manager SKEIN RAFT KEYS: JSON in base64
//   or, of a locked manager   SKEIN SEALED KEYS: version of the unlock key (8, big endian), salt (32), data, tag (16), in base64
// The data is JSON of both, sealed with AES-256-GCM under a key derived from the unlock key and the salt.

import { randomBytes } from 'node:crypto';
import { SALT_BYTES, TAG_BYTES, fileKey, open, seal } from '../raftlog/seal.js';

const PURPOSE = 'node keys';
const VERSION_BYTES = 8;
export const DATA_KEY_BYTES = 32;
const NO_TAG = Buffer.alloc(TAG_BYTES);

/** Keys that seal the raft log; see daemon/manager/lockkeeper.ts. */
export interface RaftKeys {
  readonly current: Uint8Array;
  /** Replaces `current` once no file needs that any more. */
  readonly pending: Uint8Array | undefined;
  /** Once it has: another replacement, for one asked for meanwhile. */
  readonly again: boolean;
}

export interface NodeKeys {
  /** PEM, PKCS#8: of the certificate. */
  readonly key: string;
  /** Of a manager. */
  readonly raft: RaftKeys | undefined;
  /** Undefined: nothing is locked. */
  readonly unlockKey: Uint8Array | undefined;
  /** The cluster's version that the unlock key, or that there is none, was learned from. */
  readonly unlockVersion: bigint;
  /** The certificate's key lay in the clear before it was sealed: it waits for its replacement. */
  readonly exposed: boolean;
}

export interface NodeFile extends NodeKeys {
  readonly certificate: string;
}

interface Json {
  readonly key?: string;
  readonly current?: string;
  readonly pending?: string;
  readonly again?: boolean;
  readonly version?: string;
  readonly exposed?: boolean;
}

function block(label: string, bytes: Uint8Array): string {
  const lines = Buffer.from(bytes).toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}

function blockIn(text: string, label: string): Buffer | undefined {
  const body = new RegExp(`-----BEGIN ${label}-----([\\s\\S]*?)-----END ${label}-----`).exec(text)?.[1];
  return body === undefined ? undefined : Buffer.from(body, 'base64');
}

function raftJson(keys: NodeKeys): Json {
  const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
  const { raft } = keys;
  return {
    version: keys.unlockVersion.toString(),
    ...(raft === undefined ? {} : { current: base64(raft.current), again: raft.again }),
    ...(raft?.pending === undefined ? {} : { pending: base64(raft.pending) }),
  };
}

export function encodeNodeFile(file: NodeFile): string {
  if (file.unlockKey === undefined) {
    const raft = file.raft === undefined ? '' : block('SKEIN RAFT KEYS', Buffer.from(JSON.stringify(raftJson(file))));
    return `${file.certificate}${file.key}${raft}`;
  }
  const salt = randomBytes(SALT_BYTES);
  const plain = Buffer.from(JSON.stringify({ ...raftJson(file), key: file.key, exposed: file.exposed }));
  const { data, tag } = seal(fileKey(file.unlockKey, salt, PURPOSE), file.unlockVersion, NO_TAG, plain);
  const version = Buffer.alloc(VERSION_BYTES);
  version.writeBigUInt64BE(file.unlockVersion);
  return file.certificate + block('SKEIN SEALED KEYS', Buffer.concat([version, salt, data, tag]));
}

/** 'locked': it takes an unlock key, or another one. 'damaged': no key would help. */
export function decodeNodeFile(text: string, unlockKey: Uint8Array | undefined): NodeFile | 'locked' | 'damaged' {
  const certificate = /^[\s\S]*-----END CERTIFICATE-----\n/.exec(text)?.[0] ?? '';
  const sealed = blockIn(text, 'SKEIN SEALED KEYS');
  if (sealed === undefined) return fromClear(text, certificate);
  if (sealed.length < VERSION_BYTES + SALT_BYTES + TAG_BYTES) return 'damaged';
  if (unlockKey === undefined) return 'locked';
  const unlockVersion = sealed.readBigUInt64BE(0);
  const data = VERSION_BYTES + SALT_BYTES;
  const plain = open(fileKey(unlockKey, sealed.subarray(VERSION_BYTES, data), PURPOSE), unlockVersion, NO_TAG,
    sealed.subarray(data, -TAG_BYTES), sealed.subarray(-TAG_BYTES));
  if (plain === undefined) return 'locked';
  const json = parse(plain);
  if (json?.key === undefined) return 'damaged';
  return { certificate, key: json.key, raft: raftKeys(json), unlockKey, unlockVersion, exposed: json.exposed === true };
}

function fromClear(text: string, certificate: string): NodeFile | 'damaged' {
  const key = /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----\n/.exec(text)?.[0];
  if (key === undefined || certificate === '') return 'damaged';
  const bytes = blockIn(text, 'SKEIN RAFT KEYS');
  const json = bytes === undefined ? undefined : parse(bytes);
  const raft = json === undefined ? undefined : raftKeys(json);
  if (bytes !== undefined && raft === undefined) return 'damaged';
  return { certificate, key, raft, unlockKey: undefined, unlockVersion: BigInt(json?.version ?? '0'), exposed: false };
}

function parse(bytes: Buffer): Json | undefined {
  try {
    return JSON.parse(bytes.toString()) as Json;
  } catch {
    return undefined; // Cut short, or zeros.
  }
}

function raftKeys(json: Json): RaftKeys | undefined {
  if (json.current === undefined) return undefined;
  const current = Buffer.from(json.current, 'base64');
  const pending = json.pending === undefined ? undefined : Buffer.from(json.pending, 'base64');
  if (current.length !== DATA_KEY_BYTES || (pending !== undefined && pending.length !== DATA_KEY_BYTES)) return undefined;
  return { current, pending, again: json.again === true };
}

export function newDataKey(): Uint8Array {
  return randomBytes(DATA_KEY_BYTES);
}
