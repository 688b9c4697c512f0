// Backup and restore of a manager's part in its swarm: identity, keys and raft log, as they lie in its state directory.
// A backup reads the files and nothing else, whether the agent runs or not; what is sealed on disk is sealed in it.
// Tasks, images and what the worker's half keeps are not in it: the manager starts tasks anew.
//
// Why a copy fits together though the agent writes: the log only ever gains files with new names and drops old ones, so
// when the list is the same before and after all were opened, each was there throughout; what is opened stays readable when
// dropped. Keys come before what they seal and go after it: the small files too must be the same before and after. Of
// the newest segment some first part is read, later than the call: all that was acknowledged before it.

import { randomBytes } from 'node:crypto';
import { mkdir, open, readFile, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { decodeBackup, encodeBackup, type Backup } from '../io/backupfile.js';
import { DATA_KEY_BYTES, decodeNodeFile } from '../io/keystore/nodefile.js';
import { LOG_FILE, checkSealedLog, lastIndexOf, readLog, type LogFiles } from '../io/raftlog/check.js';
import { RaftLogDamaged, type LoadedLog } from '../io/raftlog/replay.js';
import { HEADER_BYTES, NOTE_OFFSET } from '../io/raftlog/segment.js';
import { expiryOf, isKeyOf } from '../io/x509/certificates.js';
import { AppFailure } from '../lib/result.js';
import { lockFile } from './agent.js';
import { managersKnown, restoredState } from './restored.js';
import { NODE_FILE, OLD_DATA_KEY_FILE, ROOT_FILE, STATE_FILE, parseState, type SwarmState } from './swarmstate.js';

const RAFT = 'raft';
const SMALL_FILES = [STATE_FILE, NODE_FILE, ROOT_FILE, OLD_DATA_KEY_FILE];
const TRIES = 200;
const PAUSE_MS = 10;
/** What is read and written in one piece. */
const BYTES_MAX = 2 ** 31 - 1;

export interface BackupReport {
  readonly file: string;
  readonly bytes: number;
  readonly files: number;
  readonly nodeId: string;
  readonly clusterId: string;
  readonly madeAt: string;
  /** Managers there were, as far as this one knew. */
  readonly managers: number;
  /** The keys take the swarm's unlock key; without it the log could not be opened to check it. */
  readonly locked: boolean;
  /** Of the last entry of the log, decimal; empty when it could not be opened. */
  readonly lastIndex: string;
  /** In ISO 8601; a restored node whose certificate has expired can only be left. */
  readonly certificateExpires: string;
}

type Files = Map<string, Buffer>;

function refuse(message: string): never {
  throw new AppFailure({ code: 'failed_precondition', message });
}

/** What the system says of a path the user named is no bug. */
async function onDisk<T>(what: string, work: Promise<T>): Promise<T> {
  return work.catch((error: NodeJS.ErrnoException) => {
    if (error.code === undefined || error instanceof AppFailure) throw error;
    return refuse(`${what}: ${error.message}`);
  });
}

export interface BackupRequest {
  readonly stateDir: string;
  readonly to: string;
  /** Replaces a file that is there. */
  readonly force: boolean;
  /** Of a locked swarm: to see that it fits, and to check the log. */
  readonly unlockKey?: Uint8Array | undefined;
}

export interface RestoreRequest extends Pick<BackupRequest, 'stateDir' | 'unlockKey'> {
  readonly from: string;
}

export async function backUp({ stateDir, to, force, unlockKey }: BackupRequest): Promise<BackupReport> {
  const files = await onDisk(`cannot read the swarm's state in ${stateDir}`, gather(path.join(stateDir, 'swarm')));
  const state = parseState(files.get(STATE_FILE)?.toString() ?? '') ?? refuse(`the swarm's state in ${stateDir} is damaged: nothing was backed up`);
  const header = { nodeId: state.nodeId, clusterId: state.clusterId, madeAt: new Date().toISOString() };
  const checked = inspect({ header, files }, unlockKey, (problem) => refuse(`the state in ${stateDir} is damaged, nothing was backed up: ${problem}`));
  const parts = encodeBackup({ header, files });
  const bytes = parts.reduce((sum, part) => sum + part.length, 0);
  if (bytes > BYTES_MAX) refuse(`the state in ${stateDir} takes ${bytes} bytes: a backup holds ${BYTES_MAX} at most`);
  await onDisk(`cannot write ${to}`, writeWhole(to, parts, force));
  return { file: to, bytes, ...checked };
}

export async function restore({ from, stateDir, unlockKey }: RestoreRequest): Promise<BackupReport> {
  const bytes = await onDisk(`cannot read ${from}`, readFile(from));
  const backup = decodeBackup(bytes);
  if (backup === 'foreign') return refuse(`${from} is no backup made by "skein backup"`);
  if (backup === 'damaged') return refuse(`${from} is damaged or cut off: nothing was restored`);
  const checked = inspect(backup, unlockKey, (problem) => refuse(`${from} cannot be restored: ${problem}`));
  const before = parseState(backup.files.get(STATE_FILE)?.toString() ?? '') as SwarmState;
  const state = JSON.stringify(restoredState(before, checked.managers, checked.madeAt), undefined, 2);
  await onDisk(`cannot restore into ${stateDir}`, place(stateDir, new Map([...backup.files, [STATE_FILE, Buffer.from(state)]])));
  return { file: from, bytes: bytes.length, ...checked };
}

/** Every file of a manager, as they stood together at one moment. */
async function gather(directory: string): Promise<Files> {
  for (let left = TRIES; left > 0; left--) {
    const small = await readSmall(directory);
    managerOf(small, directory);
    const log = await openLog(path.join(directory, RAFT));
    if (log === undefined) {
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      continue;
    }
    try {
      const again = await readSmall(directory);
      const same = SMALL_FILES.every((name) => (small.get(name) ?? NOTHING).equals(again.get(name) ?? NOTHING));
      if (!same) continue;
      const newest = [...log.keys()].filter((name) => name.endsWith('.log')).sort().at(-1);
      for (const [name, handle] of log) {
        small.set(`${RAFT}/${name}`, name === newest ? await readGrowing(handle) : await handle.readFile());
      }
      return small;
    } finally {
      await closeAll(log.values());
    }
  }
  return refuse('the files of the swarm\'s state change all the time: try again');
}

const NOTHING = Buffer.alloc(0);

function managerOf(small: Files, directory: string): SwarmState {
  const text = small.get(STATE_FILE)?.toString();
  if (text === undefined) return refuse(`${directory} holds no swarm: is this the agent's --state-dir?`);
  const state = parseState(text) ?? refuse(`${path.join(directory, STATE_FILE)} is damaged`);
  if (state.role !== 'manager') refuse(`the node of ${directory} is a worker: only managers have the swarm's state`);
  if (state.raftId === '') refuse(`the manager of ${directory} was not taken in by the other managers yet: it has nothing to back up`);
  return state;
}

async function readSmall(directory: string): Promise<Files> {
  const found: Files = new Map();
  for (const name of SMALL_FILES) {
    const content = await readFile(path.join(directory, name)).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    });
    if (content !== undefined) found.set(name, content);
  }
  return found;
}

async function logNames(directory: string): Promise<string[]> {
  return (await readdir(directory)).filter((name) => LOG_FILE.test(name)).sort();
}

/** All files of the log at once; undefined when some came or went meanwhile. */
async function openLog(directory: string): Promise<Map<string, FileHandle> | undefined> {
  const names = await logNames(directory);
  const opened = new Map<string, FileHandle>();
  let gone = false;
  try {
    for (const name of names) opened.set(name, await open(path.join(directory, name), 'r'));
    gone = (await logNames(directory)).join() !== names.join();
  } catch (error) {
    gone = true;
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
      await closeAll(opened.values());
      throw error;
    }
  }
  if (!gone) return opened;
  await closeAll(opened.values());
  return undefined;
}

async function closeAll(handles: Iterable<FileHandle>): Promise<void> {
  for (const handle of handles) await handle.close();
}

/**
 * A segment that may be written to: what was read is some first part of it. Its note of what was synced is rewritten in
 * place and could be read half: one that changes meanwhile is left out, as in a segment that has none yet.
 */
async function readGrowing(handle: FileHandle): Promise<Buffer> {
  const note = async (): Promise<Buffer> => {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(HEADER_BYTES - NOTE_OFFSET), 0, HEADER_BYTES - NOTE_OFFSET, NOTE_OFFSET);
    return buffer.subarray(0, bytesRead);
  };
  const before = await note();
  const bytes = await handle.readFile();
  if (!before.equals(await note())) bytes.fill(0, Math.min(NOTE_OFFSET, bytes.length), Math.min(HEADER_BYTES, bytes.length));
  return bytes;
}

/** Opens what is in a backup; with its keys sealed and no unlock key given, as far as that goes. */
function inspect(
  { header, files }: Backup, unlockKey: Uint8Array | undefined, problem: (text: string) => never,
): Omit<BackupReport, 'file' | 'bytes'> {
  const log: LogFiles = new Map([...files].filter(([name]) => name.startsWith(`${RAFT}/`)).map(([name, content]) => [path.basename(name), content]));
  const others = [...files.keys()].filter((name) => !SMALL_FILES.includes(name) && !(name === `${RAFT}/${path.basename(name)}`
    && LOG_FILE.test(path.basename(name))));
  if (others.length > 0) problem(`it holds files this program does not know (${others.join(', ')})`);
  const text = files.get(NODE_FILE)?.toString() ?? problem(`${NODE_FILE} is missing`);
  const state = parseState(files.get(STATE_FILE)?.toString() ?? '') ?? problem(`${STATE_FILE} is missing or damaged`);
  if (!/^[1-9][0-9]*$/.test(state.raftId)) problem(`${STATE_FILE} is not of a manager`);
  if (!files.has(ROOT_FILE)) problem(`${ROOT_FILE} is missing`);
  if (![...log.keys()].some((name) => name.endsWith('.log'))) problem('the raft log is missing');
  const locked = decodeNodeFile(text, undefined) === 'locked';
  const node = decodeNodeFile(text, unlockKey);
  if (node === 'locked' && unlockKey !== undefined) problem('its keys are sealed with another unlock key than the one given');
  const expires = expiryOf(text);
  if (node === 'damaged' || expires === undefined || (node !== 'locked' && !isKeyOf(node.key, node.certificate))) {
    return problem(`${NODE_FILE} holds no certificate with its private key`);
  }
  const old = files.get(OLD_DATA_KEY_FILE);
  const keys = node === 'locked' ? [] : [node.raft?.current ?? old, node.raft?.pending].filter((key) => key?.length === DATA_KEY_BYTES);
  let loaded: LoadedLog | undefined;
  try {
    if (node === 'locked') checkSealedLog(log);
    else loaded = readLog(log, keys as Uint8Array[]);
  } catch (error) {
    if (error instanceof RaftLogDamaged) return problem(error.message);
    throw error;
  }
  return {
    files: files.size, ...header, managers: managersKnown(state, loaded), locked,
    lastIndex: loaded === undefined ? '' : lastIndexOf(loaded).toString(), certificateExpires: new Date(expires).toISOString(),
  };
}

/** There as a whole or not at all, and on disk; an existing file only goes with `force`. */
async function writeWhole(file: string, parts: readonly Buffer[], force: boolean): Promise<void> {
  const temporary = `${file}.${randomBytes(4).toString('hex')}.tmp`;
  try {
    await writeSynced(temporary, parts);
    // Taken by nobody else, on file systems without links too.
    if (!force) await writeSynced(file, []);
    await rename(temporary, file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    refuse(`${file} is there already: name another file, or replace it with --force`);
  } finally {
    await rm(temporary, { force: true });
  }
  await syncDirectory(path.dirname(file));
}

async function writeSynced(file: string, parts: readonly Buffer[]): Promise<void> {
  const handle = await open(file, 'wx', 0o600);
  try {
    for (const part of parts) await handle.writeFile(part);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  await handle.sync();
  await handle.close();
}

/** Written aside and renamed: a kill leaves no half of a swarm. */
async function place(stateDir: string, files: ReadonlyMap<string, Buffer>): Promise<void> {
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  const lock = await lockFile(path.join(stateDir, 'agent.pid'));
  if (!lock.ok) return refuse(`${lock.error.message}: stop it first`);
  try {
    const target = path.join(stateDir, 'swarm');
    const present = await readdir(target).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return [];
      throw error;
    });
    if (present.length > 0) {
      refuse(`${stateDir} holds a swarm's state already: name another directory, or leave that swarm first ("docker swarm leave --force")`);
    }
    const aside = path.join(stateDir, 'swarm.restoring');
    await rm(aside, { recursive: true, force: true });
    const folders = [aside, ...new Set([...files.keys()].map((name) => path.dirname(path.join(aside, name))))];
    for (const folder of folders) await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const [name, content] of files) await writeSynced(path.join(aside, name), [content]);
    for (const folder of folders) await syncDirectory(folder);
    await rename(aside, target);
    await syncDirectory(stateDir);
  } finally {
    await lock.value.close();
  }
}
