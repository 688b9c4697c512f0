// The executor suite on the embedded runtime, and what only it has: the pseudo image `host`.

import assert from 'node:assert/strict';
import path from 'node:path';
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
