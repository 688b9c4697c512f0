// The executor suite on the embedded runtime, and what only it has: the pseudo image `host`.

import assert from 'node:assert/strict';
import path from 'node:path';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { it } from 'node:test';
import { collect, makeEnvironment, makeScratch, makeTask, shell, textOf } from './executor-fixture.js';
import { openExecutor } from './executor-open.js';
import { executorSuite } from './executor-suite.js';

executorSuite('oci', async (scratch) => ({
  options: { kind: 'oci', stateDir: path.join(scratch.directory, 'state') },
  close: async () => undefined,
}));

it('runs the pseudo image host: the machine, without its state', { timeout: 60_000 }, async () => {
  const scratch = makeScratch();
  const executor = openExecutor({ kind: 'oci', stateDir: path.join(scratch.directory, 'state') });
  try {
    assert.ok((await executor.images.list()).some(({ repoTags }) => repoTags.includes('host:latest')));
    const task = makeTask({ ...shell(`ls /usr/bin/node /run /tmp | head -50; ls ${scratch.directory}/state; touch /usr/skein-marker && echo written`), image: 'host' });
    const controller = executor.controller(task.id);
    await controller.prepare(task, makeEnvironment(scratch.netns, task));
    await controller.start();
    assert.equal((await controller.wait()).exitCode, 0);
    const text = textOf(await collect(controller));
    assert.match(text, /\/usr\/bin\/node/);
    assert.match(text, /written/);
    assert.doesNotMatch(text, /netns|tasks/);
    assert.equal((await import('node:fs')).existsSync('/usr/skein-marker'), false);
    await controller.remove();
  } finally {
    for (const id of await executor.adopt()) await executor.controller(id).remove();
    await executor.close();
    scratch.cleanup();
  }
});

it('bounds the log and runs many tasks at once', { timeout: 120_000 }, async () => {
  const scratch = makeScratch();
  const stateDir = path.join(scratch.directory, 'state');
  const executor = openExecutor({ kind: 'oci', stateDir });
  try {
    const noisy = makeTask({ ...shell('i=0; while [ $i -lt 20000 ]; do echo "line $i"; i=$((i+1)); done; echo the end'), image: 'host' },
      { logDriver: { name: 'json-file', options: [{ key: 'max-size', value: '100k' }] } });
    const controller = executor.controller(noisy.id);
    await controller.prepare(noisy, makeEnvironment(scratch.netns, noisy));
    await controller.start();
    const followed = textOf(await collect(controller, { follow: true }));
    assert.match(followed, /the end\n$/);
    assert.ok(statSync(path.join(stateDir, 'tasks', noisy.id, 'log')).size <= 110_000);
    assert.match(textOf(await collect(controller, { tail: 1 })), /^the end\n$/);
    const startedMs = Date.now();
    const exits = await Promise.all(Array.from({ length: 12 }, async (_, index) => {
      const task = makeTask({ ...shell(`exit ${index}`), image: 'host' });
      const one = executor.controller(task.id);
      await one.prepare(task, makeEnvironment(scratch.netns, task));
      await one.start();
      return (await one.wait()).exitCode;
    }));
    assert.deepEqual(exits, Array.from({ length: 12 }, (_, index) => index));
    assert.ok(Date.now() - startedMs < 60_000);
  } finally {
    for (const id of await executor.adopt()) await executor.controller(id).remove();
    await executor.close();
    scratch.cleanup();
  }
});

it('finishes a start that a killed agent had begun', { timeout: 60_000 }, async () => {
  const scratch = makeScratch();
  const stateDir = path.join(scratch.directory, 'state');
  let executor = openExecutor({ kind: 'oci', stateDir });
  try {
    const task = makeTask({ ...shell('echo up; exit 4'), image: 'host' });
    await executor.controller(task.id).prepare(task, makeEnvironment(scratch.netns, task));
    // A new agent, as if the first had died after preparing.
    await executor.close();
    executor = openExecutor({ kind: 'oci', stateDir });
    assert.deepEqual(await executor.adopt(), [task.id]);
    const controller = executor.controller(task.id);
    assert.equal(controller.state(), undefined);
    await assert.rejects(controller.wait(), /is not started/);
    await controller.prepare(task, makeEnvironment(scratch.netns, task));
    // As if it had died after creating the container, before recording it.
    const { OciExecutor } = await import('../../src/io/oci/executor.js');
    const { createUnderConmon } = await import('../../src/io/oci/conmon.js');
    const { TaskFiles } = await import('../../src/io/oci/task-files.js');
    assert.ok(executor instanceof OciExecutor);
    const files = new TaskFiles(stateDir, task.id);
    const record = files.readRecord();
    assert.ok(record);
    await createUnderConmon(await executor.runtime(), files, record);
    await controller.start();
    assert.equal((await controller.wait()).exitCode, 4);
    assert.equal(textOf(await collect(controller)), 'up\n');
  } finally {
    for (const id of await executor.adopt()) await executor.controller(id).remove();
    await executor.close();
    scratch.cleanup();
  }
});

it('reports a lost exit status, a task without logs, and the cgroup limits really set', { timeout: 60_000 }, async () => {
  const scratch = makeScratch();
  const stateDir = path.join(scratch.directory, 'state');
  const executor = openExecutor({ kind: 'oci', stateDir });
  try {
    const task = makeTask({ ...shell('sleep 1000'), image: 'host', pidsLimit: 50n }, { logDriver: { name: 'none' } }, { memoryBytes: 64n * 1024n * 1024n, nanoCpus: 500_000_000n });
    const controller = executor.controller(task.id);
    await controller.prepare(task, makeEnvironment(scratch.netns, task));
    const { pid } = await controller.start();
    const groups = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
    assert.match(groups, new RegExp(`/skein/${task.id}`));
    if (existsSync('/sys/fs/cgroup/memory')) {
      const value = (hierarchy: string, file: string): string => readFileSync(`/sys/fs/cgroup/${hierarchy}/skein/${task.id}/${file}`, 'utf8').trim();
      assert.equal(value('memory', 'memory.limit_in_bytes'), String(64 * 1024 * 1024));
      assert.equal(value('cpu', 'cpu.cfs_quota_us'), '50000');
      assert.equal(value('pids', 'pids.max'), '50');
    }
    await assert.rejects(async () => collect(controller), /configured logging driver does not support reading/);
    const conmonPid = Number(readFileSync(path.join(stateDir, 'tasks', task.id, 'conmon.pid'), 'utf8'));
    process.kill(conmonPid, 'SIGKILL');
    assert.ok(existsSync(`/proc/${pid}`), 'the task outlives its conmon');
    await controller.terminate();
    assert.deepEqual([(await controller.wait()).exitCode, (await controller.wait()).reason], [-1, 'exit status lost: conmon was killed']);
    await controller.remove();
    assert.equal(existsSync(path.join(stateDir, 'tasks', task.id)), false);
  } finally {
    for (const id of await executor.adopt()) await executor.controller(id).remove();
    await executor.close();
    scratch.cleanup();
  }
});
