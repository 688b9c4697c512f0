// The conformance suite of Executor, run on every implementation with real containers.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { AppFailure } from '../../src/lib/result.js';
import { Mount_Type, type Task } from '../../src/model/proto/swarmkit_pb.js';
import type { Controller, ExitState, Executor, TaskEnvironment } from '../../src/platform/executor.js';
import { collect, importBusybox, makeEnvironment, makeScratch, makeTask, newTaskId, type Scratch, type SpecInit, shell, textOf } from './executor-fixture.js';
import { openExecutor, type OpenOptions } from './executor-open.js';

export interface SuiteFixture {
  readonly options: OpenOptions;
  /** Stops what the fixture started. */
  readonly close: () => Promise<void>;
}

const childFile = path.join(import.meta.dirname, 'executor-child.js');

export function executorSuite(kind: string, makeFixture: (scratch: Scratch) => Promise<SuiteFixture>): void {
  describe(`executor ${kind}`, { timeout: 240_000 }, () => {
    let scratch: Scratch;
    let fixture: SuiteFixture;
    let executor: Executor;
    const children: ChildProcess[] = [];

    before(async () => {
      scratch = makeScratch();
      fixture = await makeFixture(scratch);
      executor = openExecutor(fixture.options);
      await importBusybox(executor);
    });

    after(async () => {
      for (const child of children) child.kill('SIGKILL');
      try {
        await executor.close();
        executor = openExecutor(fixture.options);
        for (const id of await executor.adopt()) await executor.controller(id).remove();
        await executor.close();
        await fixture.close();
      } finally {
        scratch.cleanup();
      }
    });

    interface Ran {
      readonly task: Task;
      readonly controller: Controller;
    }
    async function launch(spec: SpecInit, over: Partial<TaskEnvironment> = {}, limits?: { memoryBytes?: bigint; nanoCpus?: bigint }): Promise<Ran> {
      const task = makeTask(spec, {}, limits);
      const controller = executor.controller(task.id);
      await controller.prepare(task, makeEnvironment(scratch.netns, task, over));
      await controller.start();
      return { task, controller };
    }
    async function output(spec: SpecInit, over: Partial<TaskEnvironment> = {}, limits?: { memoryBytes?: bigint; nanoCpus?: bigint }): Promise<{ text: string; exit: ExitState }> {
      const { controller } = await launch(spec, over, limits);
      const exit = await controller.wait();
      const text = textOf(await collect(controller));
      await controller.remove();
      return { text, exit };
    }
    const refused = (text: string | RegExp) => (error: unknown): boolean => {
      assert.ok(error instanceof AppFailure, `not an AppFailure: ${String(error)}`);
      if (typeof text === 'string') assert.equal(error.message, text);
      else assert.match(error.message, text);
      return true;
    };

    it('describes the machine', async () => {
      const description = await executor.describe('host-a');
      assert.equal(description.hostname, 'host-a');
      assert.ok((description.resources?.memoryBytes ?? 0n) > 0n);
      assert.ok(description.engine?.plugins.some(({ type, name }) => type === 'Network' && name === 'overlay'));
    });

    it('runs a task: exit code, stdout and stderr, containers, remove', async () => {
      const { task, controller } = await launch(shell('echo out; echo err >&2; exit 7'));
      const exit = await controller.wait();
      assert.equal(exit.exitCode, 7);
      assert.ok(Math.abs(exit.finishedAtMs - Date.now()) < 30_000);
      const records = await collect(controller);
      assert.deepEqual(records.map(({ stream, data }) => [stream, Buffer.from(data).toString()]).sort(), [['stderr', 'err\n'], ['stdout', 'out\n']]);
      assert.equal(textOf(await collect(controller, { stdout: false })), 'err\n');
      const listed = (await executor.containers()).find(({ labels }) => labels['com.docker.swarm.task.id'] === task.id);
      assert.equal(listed?.state, 'exited');
      assert.equal(listed?.name, `svc.1.${task.id}`);
      await controller.remove();
      await controller.remove();
      assert.equal((await executor.containers()).some(({ labels }) => labels['com.docker.swarm.task.id'] === task.id), false);
    });

    it('gives arguments, environment, hostname, hosts, resolv.conf, network namespace', async () => {
      const { text } = await output(shell('echo "$GIVEN/$FROM_IMAGE/$HOME"; hostname; cat /etc/hosts /etc/resolv.conf; stat -L -c %i /proc/self/ns/net'));
      assert.match(text, /^one two\/yes\/\/root\ntesthost\n/);
      assert.match(text, /10\.9\.8\.7\s+testhost alias|10\.9\.8\.7\s+testhost\n10\.9\.8\.7\s+alias/);
      assert.match(text, /nameserver 127\.0\.0\.11/);
      assert.match(text, /search example\.test/);
      const inode = statSync(scratch.netns).ino;
      assert.match(text, new RegExp(`^${inode}$`, 'm'));
      assert.equal((await output({ args: ['/bin/echo', 'args', 'only'] })).text, 'args only\n');
    });

    it('runs users, capabilities, seccomp, masked and read-only paths as Docker', async () => {
      const status = 'grep -E "CapEff|CapBnd|Seccomp:|NoNewPrivs" /proc/self/status; id';
      const root = (await output(shell(`exec 2>&1; ${status}; cat /proc/timer_list /proc/keys 2>/dev/null | wc -c; echo x > /proc/sys/kernel/hostname; mount -t tmpfs x /tmp; echo done`))).text;
      assert.match(root, /CapEff:\s+00000000a80425fb/);
      assert.match(root, /Seccomp:\s+2/);
      assert.match(root, /uid=0/);
      assert.match(root, /Read-only file system/);
      assert.match(root, /(permission denied|not permitted)[^\n]*\ndone/i);
      assert.match(root, /^0$/m);
      const user = (await output({ ...shell(`${status}`), user: 'www' })).text;
      assert.match(user, /uid=33\(www\) gid=34\(www\)[^\n]*50\(extra\)/);
      assert.match(user, /CapEff:\s+0000000000000000/);
      const changed = (await output({ ...shell(status), capabilityAdd: ['NET_ADMIN'], capabilityDrop: ['MKNOD'], user: '0:5' })).text;
      assert.match(changed, /CapEff:\s+00000000a00435fb/);
      assert.match(changed, /gid=5/);
      const task = makeTask({ ...shell('true'), user: 'nobody-here' });
      const controller = executor.controller(task.id);
      await assert.rejects(controller.prepare(task, makeEnvironment(scratch.netns, task)).then(() => controller.start()),
        refused(/unable to find user nobody-here: no matching entries in passwd file/));
      await controller.remove();
    });

    it('follows, tails and filters logs', async () => {
      const { controller } = await launch(shell('seq 1 2000; sleep 1; echo last; printf end'));
      const seen: string[] = [];
      const options = { follow: true, stdout: true, stderr: true, tail: undefined, sinceNs: undefined, signal: new AbortController().signal };
      for await (const record of controller.logs(options)) seen.push(Buffer.from(record.data).toString());
      assert.equal(seen.join(''), `${Array.from({ length: 2000 }, (_, index) => `${index + 1}\n`).join('')}last\nend`);
      assert.equal(textOf(await collect(controller, { tail: 3 })), '2000\nlast\nend');
      assert.equal(textOf(await collect(controller, { tail: 0 })), '');
      const all = await collect(controller);
      const since = all.find(({ data }) => Buffer.from(data).toString() === 'last\n')?.timestampNs;
      assert.equal(textOf(await collect(controller, { sinceNs: since })), 'last\nend');
      await controller.remove();
    });

    it('stops a follower by abort', async () => {
      const { controller } = await launch(shell('echo hi; sleep 100'));
      const abort = new AbortController();
      const reading = collect(controller, { follow: true, signal: abort.signal });
      setTimeout(() => abort.abort(), 300);
      assert.equal(textOf(await reading), 'hi\n');
      await controller.remove();
    });

    it('asks with the stop signal, then kills', async () => {
      const polite = await launch({ ...shell('trap "echo bye; exit 5" USR1; echo up; while true; do sleep 0.1; done'), stopSignal: 'SIGUSR1' });
      while (!textOf(await collect(polite.controller)).includes('up')) await new Promise((resolve) => setTimeout(resolve, 50));
      await polite.controller.shutdown(20_000);
      assert.equal((await polite.controller.wait()).exitCode, 5);
      assert.match(textOf(await collect(polite.controller)), /bye/);
      await polite.controller.remove();
      const stubborn = await launch(shell('trap "" TERM; echo up; while true; do sleep 0.1; done'));
      const startedMs = Date.now();
      await stubborn.controller.shutdown(1000);
      assert.ok(Date.now() - startedMs >= 900);
      assert.equal((await stubborn.controller.wait()).exitCode, 137);
      await stubborn.controller.remove();
    });

    it('enforces the memory limit', async () => {
      const { exit, text } = await output(shell('x=$(yes | head -c 200000000); echo survived'), {}, { memoryBytes: 20_000_000n });
      assert.doesNotMatch(text, /survived/);
      assert.equal(exit.exitCode, 137);
      assert.equal(exit.reason, 'OOM killed');
    });

    it('mounts binds, volumes and tmpfs', async () => {
      const source = path.join(scratch.directory, 'bind');
      mkdirSync(source, { recursive: true });
      writeFileSync(path.join(source, 'file'), 'bound\n');
      const volume = `v-${newTaskId()}`;
      const mounts = [
        { type: Mount_Type.BIND, source, target: '/bound', readonly: true },
        { type: Mount_Type.VOLUME, source: volume, target: '/data' },
        { type: Mount_Type.TMPFS, target: '/scratch', tmpfsOptions: { sizeBytes: 1_048_576n, mode: 0o700 } },
      ];
      const first = await output({ ...shell('exec 2>&1; cat /bound/file /data/seed; touch /bound/x; echo more >> /data/seed; stat -c %a /scratch; dd if=/dev/zero of=/scratch/f bs=1024 count=2000; ls -l /scratch'), mounts });
      assert.match(first.text, /^bound\nseeded\n/m);
      assert.match(first.text, /Read-only file system/);
      assert.match(first.text, /^700$/m);
      assert.match(first.text, /No space left on device/);
      assert.match((await output({ ...shell('cat /data/seed'), mounts })).text, /seeded\nmore/);
      const missing = makeTask({ ...shell('true'), mounts: [{ type: Mount_Type.BIND, source: '/no/such/path', target: '/x' }] });
      await assert.rejects(executor.controller(missing.id).prepare(missing, makeEnvironment(scratch.netns, missing)),
        refused(/invalid mount config for type "bind": bind source path does not exist: \/no\/such\/path/));
      await executor.controller(missing.id).remove();
    });

    it('gives secrets and configs as files', async () => {
      const file = (name: string, mode: number, uid = '0') => ({ case: 'file' as const, value: { name, uid, gid: '0', mode } });
      const { text } = await output({
        ...shell('stat -c "%a %u" /run/secrets/key /conf; cat /run/secrets/key /conf; touch /run/secrets/key 2>/dev/null || echo fixed'),
        secrets: [{ secretId: 's1', secretName: 'key', target: file('key', 0o444) }],
        configs: [{ configId: 'c1', configName: 'conf', target: file('/conf', 0o440, '33') }],
      }, { secrets: new Map([['s1', Buffer.from('hidden\n')]]), configs: new Map([['c1', Buffer.from('setting\n')]]) });
      assert.match(text, /444 0\n440 33\nhidden\nsetting\n/);
      const task = makeTask({ ...shell('true'), secrets: [{ secretId: 'nope', secretName: 'nope', target: file('x', 0o444) }] });
      await assert.rejects(executor.controller(task.id).prepare(task, makeEnvironment(scratch.netns, task)), refused(/nope/));
      await executor.controller(task.id).remove();
    });

    it('refuses an unknown image and a missing program', async () => {
      const unknown = makeTask({ ...shell('true'), image: 'not/here:7' });
      await assert.rejects(executor.controller(unknown.id).prepare(unknown, makeEnvironment(scratch.netns, unknown)), refused('No such image: not/here:7'));
      await executor.controller(unknown.id).remove();
      const task = makeTask({ command: ['nothing-like-it'] });
      const controller = executor.controller(task.id);
      await controller.prepare(task, makeEnvironment(scratch.netns, task));
      await assert.rejects(controller.start(), refused(/exec: "nothing-like-it": executable file not found in \$PATH/));
      await controller.remove();
    });

    it('runs an init, a terminal, limits and a read-only root', async () => {
      const { text } = await output({ ...shell('cat /proc/1/comm; exit 3'), init: true });
      assert.match(text, /docker-init|tini/);
      assert.match((await output({ ...shell('test -t 1 && echo terminal'), tty: true })).text, /terminal\r?\n/);
      assert.match((await output({ ...shell('touch /x 2>/dev/null || echo fixed'), readOnly: true })).text, /fixed/);
      const limited = await output({
        ...shell('exec 2>&1; ulimit -n; ulimit -c; cat /proc/sys/net/ipv4/ip_forward; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done; wait'),
        ulimits: [{ name: 'nofile', soft: 100n, hard: 200n }, { name: 'core', soft: -1n, hard: -1n }],
        sysctls: [{ key: 'net.ipv4.ip_forward', value: '1' }], pidsLimit: 5n,
      });
      assert.match(limited.text, /^100\nunlimited\n1\n/);
      assert.match(limited.text, /can't fork|Resource temporarily unavailable/);
    });

    it('watches health', async () => {
      const quick = { interval: { seconds: 0n, nanos: 200_000_000 }, timeout: { seconds: 5n, nanos: 0 }, retries: 2 };
      const good = await launch({ ...shell('sleep 1; touch /ok; sleep 100'), healthcheck: { test: ['CMD-SHELL', 'test -e /ok'], ...quick, startPeriod: { seconds: 20n, nanos: 0 } } });
      await good.controller.healthy();
      await good.controller.remove();
      const bad = await launch({ ...shell('sleep 100'), stopSignal: 'SIGKILL', healthcheck: { test: ['CMD', 'false'], ...quick } });
      await assert.rejects(bad.controller.healthy(), refused(/unhealthy container/));
      const exit = await bad.controller.wait();
      assert.equal(exit.reason, 'unhealthy container');
      assert.equal(exit.exitCode, 137);
      await bad.controller.remove();
    });

    const agent = (verb: string, taskId: string, script: string): ChildProcess => {
      const child = spawn(process.execPath, [childFile, verb, JSON.stringify(fixture.options), scratch.netns, taskId, script], { stdio: ['ignore', 'pipe', 'inherit'] });
      children.push(child);
      return child;
    };
    /** The child's output line by line; fails if it ends before. */
    const lines = (child: ChildProcess): (() => Promise<string>) => {
      const reader = createInterface({ input: child.stdout ?? Readable.from([]) })[Symbol.asyncIterator]();
      return async () => {
        const { value, done } = await reader.next();
        assert.ok(done !== true, 'agent ended early');
        return value;
      };
    };

    it('keeps tasks through SIGKILL of the agent and adopts them, running and ended', async () => {
      const id = newTaskId();
      const first = agent('start', id, 'echo before; while ! test -e /tmp/go; do sleep 0.1; done; echo after; exit 9');
      const state = JSON.parse(await lines(first)()) as { pid: number };
      first.kill('SIGKILL');
      await new Promise((resolve) => first.once('exit', resolve));
      assert.ok(existsSync(`/proc/${state.pid}`), 'task died with its agent');
      const next = lines(agent('adopt', id, ''));
      const found = JSON.parse(await next()) as { adopted: boolean; state: { pid: number } };
      assert.equal(found.adopted, true);
      assert.equal(found.state.pid, state.pid);
      writeFileSync(`/proc/${state.pid}/root/tmp/go`, '');
      const seen = JSON.parse(await next()) as { exit: ExitState; logs: string };
      assert.equal(seen.exit.exitCode, 9);
      assert.equal(seen.logs, 'before\nafter\n');
      const later = lines(agent('adopt', id, ''));
      await later();
      const third = JSON.parse(await later()) as { exit: ExitState; logs: string };
      assert.equal(third.exit.exitCode, 9);
      assert.equal(third.logs, 'before\nafter\n');
      await executor.adopt();
      await executor.controller(id).remove();
      assert.equal(readFileSync('/proc/self/mountinfo', 'utf8').includes(id), false);
    });
  });
}
