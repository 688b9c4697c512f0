// Files after a power loss: empty, zeros, a part, garbage. What can be made again is dropped with a warning that names
// it, and the node goes on; what cannot is an error that names the file.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { lockFile } from '../../src/daemon/agent.js';
import { SwarmFiles } from '../../src/daemon/swarmstate.js';
import { LocalImageStore } from '../../src/io/images/store.js';
import { waitForExit } from '../../src/io/oci/exit.js';
import { TaskFiles, type TaskRecord } from '../../src/io/oci/task-files.js';
import { AppFailure, unwrap } from '../../src/lib/result.js';
import { TaskState } from '../../src/model/proto/swarmkit_pb.js';
import { testNodes, type TestNode } from '../support/test-node.js';
import { eventually } from '../system/fixture.js';

const HARMS: Readonly<Record<string, (content: Buffer) => Buffer>> = {
  empty: () => Buffer.alloc(0),
  zeros: (content) => Buffer.alloc(content.length),
  'a part': (content) => content.subarray(0, content.length / 2),
  'zeros at the end': (content) => Buffer.concat([content.subarray(0, content.length - 9), Buffer.alloc(9)]),
  'a changed byte': (content) => Buffer.from(content.map((byte, i) => (i === content.length - 5 ? byte ^ 1 : byte))),
};
const make = testNodes();
const folders: string[] = [];
afterEach(async () => {
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true });
});

async function folder(): Promise<string> {
  const made = await mkdtemp(path.join(os.tmpdir(), 'skein-damaged-'));
  folders.push(made);
  return made;
}

async function manager(): Promise<TestNode> {
  const node = await make();
  unwrap(await node.init());
  return node;
}

async function damage(file: string, harm: (content: Buffer) => Buffer): Promise<void> {
  await writeFile(file, harm(await readFile(file)));
}

describe('a damaged file of a worker', () => {
  it('of a task is dropped: its remains are removed, and another task takes its place', async () => {
    const node = await manager();
    await node.service('web', 2);
    const tasks = () => node.node.manager()?.view().list('task') ?? [];
    const running = () => tasks().filter((task) => task.status?.state === TaskState.RUNNING).map(({ id }) => id);
    for (const [name, harm] of Object.entries(HARMS)) {
      await eventually('tasks that run', 8000, async () => assert.equal(running().length, 2));
      const lost = running()[0] as string;
      const file = node.file('worker/tasks', `${lost}.task`);
      await node.restart(() => damage(file, harm));
      assert.ok(node.warnings().some((line) => line.includes(file) && line.includes('damaged')), name);
      assert.ok(!node.executor.has(lost), `${name}: what ran of it is removed`);
      await eventually(`${name}: another one`, 8000, async () => {
        const status = tasks().find(({ id }) => id === lost)?.status;
        assert.deepEqual([status?.state, status?.err], [TaskState.FAILED, 'task was lost: this node has no record of it']);
        assert.equal(running().length, 2);
        assert.equal(node.executor.live, 2);
      });
    }
  });

  it('of its rows is dropped: the manager sends them again', async () => {
    const node = await manager();
    const file = node.file('worker/rows');
    for (const [name, harm] of Object.entries(HARMS)) {
      await eventually('saved rows', 5000, () => readFile(file));
      node.dataPlane.applied = undefined;
      await node.restart(() => damage(file, harm));
      assert.ok(node.warnings().some((line) => line.includes(file) && line.includes('damaged')), name);
      await eventually(`${name}: rows`, 5000, async () => assert.ok((node.dataPlane.applied?.upsert.length ?? 0) > 0));
    }
  });
});

describe('a damaged state file', () => {
  it('of the swarm is told by an agent that runs, and the node can leave', async () => {
    for (const harm of [HARMS['empty'], HARMS['zeros'], HARMS['a part']] as ((content: Buffer) => Buffer)[]) {
      const node = await manager();
      const file = node.file('state.json');
      await node.restart(() => damage(file, harm));
      const { state, error } = node.node.local();
      assert.equal(state, 'error');
      assert.ok(error.startsWith(`error while loading the swarm state in ${file}: it is damaged. Restore it `), error);
      unwrap(await node.node.swarmLeave(true));
      unwrap(await node.init());
    }
  });

  it('with the key of the raft log is an error that names it', async () => {
    const files = new SwarmFiles(await folder());
    await mkdir(files.directory);
    await writeFile(path.join(files.directory, 'raft-dek'), '');
    await assert.rejects(files.raftKeys(), (error) =>
      error instanceof AppFailure && /raft-dek, is damaged: it has 0 bytes and must have 32/.test(error.message));
  });

  it('of the agent\'s lock names nobody', async () => {
    for (const content of ['', '\0\0\0\0\0\0\0', '999999999', '999999999 ', 'x y']) {
      const file = path.join(await folder(), 'agent.pid');
      await writeFile(file, content);
      const lock = unwrap(await lockFile(file));
      assert.match(await readFile(file, 'utf8'), new RegExp(`^${process.pid} \\d+\n$`));
      await lock.close();
    }
  });

  it('of the agent\'s lock that names a killed agent, which nobody has reaped, names nobody', async () => {
    const parent = spawn('sh', ['-c', 'sleep 1000 & echo $!; wait'], { stdio: ['ignore', 'pipe', 'ignore'] });
    try {
      const pid = Number(String(await new Promise((resolve) => parent.stdout.once('data', resolve))));
      const stat = async (of: number): Promise<string[]> => (await readFile(`/proc/${of}/stat`, 'utf8')).split(') ')[1]?.split(' ') ?? [];
      const reach = async (of: number, state: string): Promise<void> => {
        while ((await stat(of))[0] !== state) await new Promise((resolve) => setTimeout(resolve, 10));
      };
      // A parent that is stopped does not reap.
      parent.kill('SIGSTOP');
      await reach(parent.pid as number, 'T');
      process.kill(pid, 'SIGKILL');
      await reach(pid, 'Z');
      const file = path.join(await folder(), 'agent.pid');
      await writeFile(file, `${pid} ${(await stat(pid))[19]}\n`);
      await unwrap(await lockFile(file)).close();
    } finally {
      parent.kill('SIGKILL');
    }
  });
});

describe('a damaged file of the runtime', () => {
  it('of a task counts as none', async () => {
    const files = new TaskFiles(await folder(), 'task');
    await mkdir(files.directory, { recursive: true });
    for (const content of ['', '\0\0\0', '{"version":1,"task', 'null']) {
      for (const name of ['meta.json', 'exit.json']) await writeFile(files.at(name), content);
      assert.equal(files.readRecord(), undefined);
      assert.equal(files.readExit(), undefined);
    }
    await mkdir(files.exits);
    await writeFile(path.join(files.exits, 'c1'), '\0\0\0');
    const exit = await waitForExit(files, { containerId: 'c1' } as TaskRecord, '/none', new AbortController().signal);
    assert.deepEqual([exit?.exitCode, exit?.reason], [-1, 'exit status lost: its file is damaged']);
  });

  it('of the images: a config spares the other images, the index is an error that names it', async () => {
    const directory = path.join(await folder(), 'images');
    const index = path.join(directory, 'index.json');
    await mkdir(path.join(directory, 'configs'), { recursive: true });
    const image = (digit: string) => ({
      id: `sha256:${digit.repeat(64)}`, repoTags: [`image${digit}:latest`], repoDigests: [], createdMs: 0, sizeBytes: 1, layers: [],
    });
    await writeFile(index, JSON.stringify({ version: 1, images: ['1', '2', '3'].map(image) }));
    const config = JSON.stringify({ os: 'linux', architecture: 'amd64', config: {}, rootfs: { diff_ids: [] } });
    await writeFile(path.join(directory, 'configs', `${'1'.repeat(64)}.json`), config);
    await writeFile(path.join(directory, 'configs', `${'2'.repeat(64)}.json`), '\0\0\0\0');
    const store = new LocalImageStore(directory);
    assert.deepEqual((await store.list()).flatMap(({ repoTags }) => repoTags), ['image1:latest', 'host:latest']);
    await assert.rejects(store.inspect('image3'), (error) =>
      error instanceof AppFailure && /has lost its config: load it again/.test(error.message));
    assert.equal(await store.remove('image2'), true);
    assert.deepEqual((await readdir(path.join(directory, 'configs'))), [`${'1'.repeat(64)}.json`]);
    for (const content of ['', '\0\0\0', '{"version":1,"imag', '{"version":7,"images":[]}', 'null']) {
      await writeFile(index, content);
      await assert.rejects(new LocalImageStore(directory).list(),
        (error) => error instanceof AppFailure && error.message.includes(`the image index ${index} is damaged`), content);
    }
  });
});
