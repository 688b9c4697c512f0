// The executor suite on a real Docker Engine of its own: own data, own socket, own network namespace, gone afterwards.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createWriteStream, existsSync, mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { installDockerRuntime } from '../../src/io/docker/wrapper.js';
import { mountsBelow } from '../../src/io/oci/mounts.js';
import type { Scratch } from './executor-fixture.js';
import { executorSuite, type SuiteFixture } from './executor-suite.js';

async function until(what: string, check: () => boolean, timeoutMs: number): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!check()) {
    if (Date.now() > deadline) throw new Error(`timed out: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function ended(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

async function startEngine(scratch: Scratch): Promise<SuiteFixture> {
  const engine = path.join(scratch.directory, 'engine');
  mkdirSync(engine);
  const netnsDirectory = path.join(scratch.directory, 'netns');
  const { wrapperFile } = await installDockerRuntime({ wrapperFile: path.join(engine, 'runtime'), netnsDirectory });
  const socketPath = path.join(engine, 'docker.sock');
  const name = `${path.basename(scratch.netns)}-e`;
  execFileSync('ip', ['netns', 'add', name]);
  // nsenter, for `ip netns exec` has another /sys without cgroups.
  const child = spawn('nsenter', [`--net=/run/netns/${name}`, 'dockerd', '--bridge=none', '--iptables=false', '--ip6tables=false',
    '--data-root', path.join(engine, 'data'), '--exec-root', path.join(engine, 'exec'), '-H', `unix://${socketPath}`,
    '--pidfile', path.join(engine, 'pid'), '--add-runtime', `skein=${wrapperFile}`, '--log-level', 'warn'], { stdio: ['ignore', 'pipe', 'pipe'] });
  const log = createWriteStream(path.join(engine, 'log'));
  child.stdout?.pipe(log, { end: false });
  child.stderr?.pipe(log, { end: false });
  const close = async (): Promise<void> => {
    child.kill('SIGTERM');
    await until('dockerd to end', () => ended(child), 30_000).catch(() => child.kill('SIGKILL'));
    await until('dockerd to end', () => ended(child), 10_000);
    log.end();
    for (const point of mountsBelow(engine)) execFileSync('umount', ['-l', point]);
    execFileSync('ip', ['netns', 'del', name]);
  };
  try {
    await until('the Engine to listen', () => existsSync(socketPath) || ended(child), 60_000);
    if (ended(child)) throw new Error(`dockerd ended: ${readFileSync(path.join(engine, 'log'), 'utf8').slice(-2000)}`);
  } catch (error) {
    await close();
    throw error;
  }
  return { options: { kind: 'docker', stateDir: path.join(scratch.directory, 'state'), socketPath, netnsDirectory }, close };
}

executorSuite('docker', startEngine);
