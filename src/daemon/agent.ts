// The agent process: builds io from options, starts the node and its API, ends on signals. A bug ends the process with
// its stack; the data plane and the tasks go on, and the next start adopts them.

import { mkdir, open, readFile, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { pino, type Logger } from 'pino';
import { startApi } from '../api/server.js';
import { DatapathClient } from '../io/datapath/client.js';
import { DockerExecutor } from '../io/docker/executor.js';
import { OciExecutor } from '../io/oci/executor.js';
import { fail, ok, type Result } from '../lib/result.js';
import type { Executor } from '../platform/executor.js';
import { SkeinNode } from './node.js';
import type { AgentOptions } from './options.js';

/** Keys and images of nodes: tasks of the pseudo image `host` must not read them. */
const HIDDEN_PATHS = ['/var/lib/skein-lab'];
const ENDING_WAIT_MS = 5000;

export function makeExecutor(options: AgentOptions): Executor {
  return options.runtime === 'docker'
    ? new DockerExecutor({ stateDir: options.stateDir, socketPath: options.dockerSocket })
    : new OciExecutor({ stateDir: options.stateDir, hiddenPaths: HIDDEN_PATHS });
}

export function makeDataPlane(options: AgentOptions, logger: Logger): DatapathClient {
  return new DatapathClient({
    binary: options.datapathBinary, runDir: options.runDir, log: (event, detail) => logger.warn(detail, event),
  });
}

/** Runs until a signal; resolves with the process's exit code. */
export async function runAgent(options: AgentOptions): Promise<Result<void>> {
  const logger = pino({ level: options.logLevel, base: { node: options.hostname } });
  await mkdir(options.stateDir, { recursive: true, mode: 0o700 });
  await mkdir(options.runDir, { recursive: true, mode: 0o711 });
  const lock = await lockFile(path.join(options.stateDir, 'agent.pid'));
  if (!lock.ok) return lock;
  const onBug = (error: unknown): void => {
    logger.fatal({ err: error }, 'the agent cannot go on');
    logger.flush();
    process.exit(70);
  };
  process.on('uncaughtException', onBug);
  process.on('unhandledRejection', onBug);
  const dataPlane = makeDataPlane(options, logger);
  const node = new SkeinNode({ options, executor: makeExecutor(options), dataPlane, logger, onBug });
  await node.start();
  await mkdir(path.dirname(options.socket), { recursive: true });
  const api = await startApi({ socketPath: options.socket, backend: node, logger });
  logger.info({ socket: options.socket, pid: process.pid }, 'the agent is ready');
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve());
  });
  await api.close();
  await node.close();
  await lock.value.close();
  return ok(undefined);
}

/** One agent per state directory: an exclusive lock that dies with the process (flock through /proc is not in Node, so a pid with its start time). */
export async function lockFile(file: string): Promise<Result<FileHandle>> {
  const handle = await open(file, 'a+', 0o600);
  const [pidText, startText] = (await handle.readFile('utf8')).trim().split(' ');
  const deadline = performance.now() + ENDING_WAIT_MS;
  // A file without both, as a power loss may leave it, names nobody.
  while (startText !== undefined && await startTime(Number(pidText)) === startText && Number(pidText) !== process.pid) {
    if (!await isEnding(Number(pidText)) || performance.now() > deadline) {
      await handle.close();
      return fail('failed_precondition', `another agent (pid ${pidText}) uses this state directory`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await handle.truncate(0);
  await handle.write(`${process.pid} ${await startTime(process.pid)}\n`, 0);
  return ok(handle);
}

/** It was killed and is on its way out: its memory is gone, its files and sockets may not be yet. */
async function isEnding(pid: number): Promise<boolean> {
  return await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '') === '';
}

/** Start time of a process in clock ticks since boot; undefined when it is gone, or a zombie that nobody has reaped yet. */
export async function startTime(pid: number): Promise<string | undefined> {
  const handle = await open(`/proc/${pid}/stat`, 'r').catch(() => undefined);
  if (handle === undefined) return undefined;
  const text = await handle.readFile('utf8').catch(() => '');
  await handle.close();
  // The name in parentheses may hold anything; what follows it is regular.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
}
