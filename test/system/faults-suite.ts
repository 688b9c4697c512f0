// Faults: what a swarm's users notice when agents, data planes, managers and whole nodes are killed or stopped, as one
// suite for both runtimes.

import assert from 'node:assert/strict';
import { readFile, readdir } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { startAgent } from '../../src/lab/lab.js';
import type { LabNode } from '../../src/lab/plan.js';
import { IMAGE, Lab, Load, addressIn, eventually, hold, pidsOf, sleep, vipOf, type TaskJson } from './fixture.js';

/** A connection may stall this long while a data plane restarts. */
const GAP_MAX_MS = 2000;

interface NodeJson {
  readonly ID: string;
  readonly Description: { readonly Hostname: string };
  readonly Status: { readonly State: string };
  readonly Spec: { readonly Availability: string };
}

export function faultSuite(name: string, runtime: 'oci' | 'docker'): void {
  describe(`faults, ${runtime} runtime`, { timeout: 600_000 }, () => {
    let lab: Lab;
    let vip: string;

    before(async () => {
      lab = await Lab.up(name, { runtime });
      await lab.docker('network', 'create', '-d', 'overlay', 'net');
      await lab.docker('service', 'create', '-q', '--name', 'web', '--network', 'net', '--replicas', '4', '-p', '8080:80',
        '--constraint', 'node.role==worker', '--stop-grace-period', '1s', IMAGE, '/bin/probe', 'serve', '80');
      vip = await vipOf(lab, 'web');
    });
    after(async () => lab?.down());

    const nodeState = async (node: LabNode): Promise<NodeJson> => {
      const nodes = await lab.api<NodeJson[]>('GET', '/v1.50/nodes');
      const found = nodes.find((n) => n.Description.Hostname === node.name);
      assert.ok(found, `node ${node.name} is listed`);
      return found;
    };
    const ready = (node: LabNode, timeoutMs: number): Promise<void> => eventually(`${node.name} is ready`, timeoutMs, async () => {
      assert.equal((await nodeState(node)).Status.State, 'ready');
    });
    /** The session stands again: a task placed on the node runs. */
    const serves = async (node: LabNode, name: string): Promise<void> => {
      await lab.docker('service', 'create', '-d', '--name', name, '--constraint', `node.hostname==${node.name}`, IMAGE, '/bin/probe',
        'serve', '80');
      await lab.running(name, 1, 15_000);
      await lab.docker('service', 'rm', name);
    };
    const onNode = async (tasks: readonly TaskJson[], node: LabNode): Promise<TaskJson> => {
      const { ID } = await nodeState(node);
      const task = tasks.find((t) => t.NodeID === ID);
      assert.ok(task, `a task on ${node.name}`);
      return task;
    };
    const names = async (netns: string, name: string): Promise<string[]> => {
      const output = await lab.inside(netns, 'dig', ['@127.0.0.11', '+short', '+tries=1', '+time=2', name]);
      return output.stdout.trim().split('\n').filter((line) => line !== '').sort();
    };

    test('a worker\'s agent killed: connections, names and ports go on; tasks keep process and address', { timeout: 90_000 }, async () => {
      const [w1] = lab.workers as [LabNode];
      await lab.docker('service', 'create', '-q', '-d', '--name', 'dier', '--network', 'net', '--restart-condition', 'none', '--constraint',
        `node.hostname==${w1.name}`,
        IMAGE, 'sh', '-c', 'trap "exit 7" USR1; while :; do sleep 0.2; done');
      await lab.docker('service', 'create', '-q', '-d', '--name', 'talker', '--constraint', `node.hostname==${w1.name}`,
        IMAGE, 'sh', '-c', 'i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.2; done');
      const [dier] = await lab.running('dier', 1);
      await lab.running('talker', 1);
      const before = await lab.running('web', 4);
      const here = await onNode(before, w1);
      const netns = await lab.netnsOf(here);
      const holds = [
        hold(lab, netns, vip, 80, 7000), hold(lab, lab.plan.clientNetns, w1.address, 8080, 7000), hold(lab, lab.plan.clientNetns,
          lab.manager.address, 8080, 7000),
      ];
      await sleep(500);
      await lab.killAgent(w1);
      assert.deepEqual(await names(netns, 'web'), [vip]);
      assert.equal((await names(netns, 'tasks.web')).length, 4);
      await lab.ask(lab.plan.clientNetns, w1.address, 8080);
      await lab.ask(netns, vip, 80);
      process.kill(dier?.Status.ContainerStatus?.PID ?? 0, 'SIGUSR1');
      await sleep(1500);
      const started = Date.now();
      await startAgent(lab.plan, w1);
      await eventually('the exit code of the task that ended meanwhile', 5000, async () => {
        const task = await lab.api<TaskJson>('GET', `/v1.50/tasks/${dier?.ID}`);
        assert.equal(task.Status.State, 'failed', JSON.stringify(task.Status));
        assert.equal(task.Status.ContainerStatus?.ExitCode, 7);
      });
      await serves(w1, 'placed');
      assert.ok(Date.now() - started < 8000, `working again after ${Date.now() - started} ms`);
      const after = await lab.running('web', 4);
      assert.deepEqual(pidsOf(after), pidsOf(before), 'the same tasks with the same processes');
      assert.deepEqual(after.map((t) => addressIn(t, 'net')), before.map((t) => addressIn(t, 'net')));
      for (const gap of await Promise.all(holds)) assert.ok(gap < 500, `a gap of ${gap} ms`);
      const last = async (): Promise<number> => Number(/tick (\d+)$/.exec(await lab.docker('service', 'logs', '--raw', '-n', '1',
        'talker'))?.[1]);
      const first = await last();
      await eventually('new lines', 5000, async () => assert.ok(await last() > first));
      assert.match(await lab.docker('service', 'logs', '--raw', 'talker'), /^tick 1\ntick 2\n/,
        'nothing is lost of what was written while the agent was away');
      await lab.docker('service', 'rm', 'dier', 'talker');
    });

    test('an agent killed again and again while tasks start and stop: all end up running, none twice', { timeout: 120_000 },
      async () => {
      const [w1] = lab.workers as [LabNode];
      await lab.docker('service', 'create', '-q', '-d', '--name', 'storm', '--network', 'net', '--replicas', '2', '--stop-grace-period',
        '1s', '--restart-delay', '100ms', '--constraint', `node.hostname==${w1.name}`, IMAGE, '/bin/probe', 'serve', '80');
      for (let kill = 0; kill < 10; kill++) {
        await lab.docker('service', 'scale', '-d', `storm=${kill % 2 === 0 ? 6 : 2}`);
        // At any moment of what a start or stop takes.
        await sleep(Math.random() * 900);
        await lab.killAgent(w1);
        await startAgent(lab.plan, w1);
      }
      await lab.docker('service', 'scale', '-d', 'storm=4');
      const tasks = await lab.running('storm', 4, 30_000);
      for (const task of tasks) assert.ok(alivePid(task.Status.ContainerStatus?.PID ?? 0), `${task.ID} runs`);
      const { task } = await lab.ask(await lab.netnsOf(tasks[0] as TaskJson), await vipOf(lab, 'storm'), 80);
      assert.notEqual(task, '');
      await eventually('containers of exactly these tasks', 20_000, async () => {
        const listed = (await lab.try(['ps', '--format', '{{.Names}}'], w1)).stdout.split('\n').filter((line) => line.startsWith('storm.'));
        assert.deepEqual(listed.map((line) => line.split('.')[2]).sort(), tasks.map((t) => t.ID).sort());
      });
      await lab.docker('service', 'rm', 'storm');
      await eventually('nothing left of them', 30_000, async () => {
        const netns = await readdir(`${w1.runDir}/netns`);
        const web = (await lab.tasks('web')).map((t) => t.ID);
        assert.deepEqual(netns.filter((id) => !web.includes(id)), []);
      });
    });

    test('data planes killed, on the entry node and on the task\'s node: connections go on within two seconds', { timeout: 90_000 },
      async () => {
      const [w1, w2] = lab.workers as [LabNode, LabNode];
      const tasks = await lab.running('web', 4);
      const netns = await lab.netnsOf(await onNode(tasks, w1));
      for (const node of [lab.manager, w1, w2]) {
        const holds = [
          ...[1, 2].map(() => hold(lab, netns, vip, 80, 6000)),
          ...[lab.manager, w1, w2].flatMap((entry) => [1, 2].map(() => hold(lab, lab.plan.clientNetns, entry.address, 8080, 6000))),
        ];
        await sleep(700);
        const old = await lab.datapathPid(node);
        process.kill(old, 'SIGKILL');
        await eventually('another data plane', 5000, async () => {
          const pid = await lab.datapathPid(node);
          assert.ok(pid > 0 && pid !== old);
        });
        await eventually('new connections', 3000, () => lab.ask(lab.plan.clientNetns, node.address, 8080));
        await eventually('new connections to the VIP', 3000, () => lab.ask(netns, vip, 80));
        assert.deepEqual(await eventually('names', 2000, async () => {
          const answer = await names(netns, 'web');
          assert.equal(answer.length, 1);
          return answer;
        }), [vip]);
        for (const gap of await Promise.all(holds)) assert.ok(gap < GAP_MAX_MS, `${node.name}: a gap of ${gap} ms`);
      }
      assert.deepEqual(pidsOf(await lab.running('web', 4)), pidsOf(tasks));
    });

    test('agent and data plane killed while the manager is away: the node forwards on what it kept', { timeout: 90_000 }, async () => {
      const [w1] = lab.workers as [LabNode];
      const tasks = await lab.running('web', 4);
      const netns = await lab.netnsOf(await onNode(tasks, w1));
      await sleep(500); // Rows are kept a moment after they came.
      await lab.killAgent(lab.manager);
      await lab.killAgent(w1);
      process.kill(await lab.datapathPid(w1), 'SIGKILL');
      await startAgent(lab.plan, w1);
      await eventually('the port', 5000, () => lab.ask(lab.plan.clientNetns, w1.address, 8080));
      await eventually('the VIP', 2000, () => lab.ask(netns, vip, 80));
      assert.equal((await names(netns, 'tasks.web')).length, 4);
      const held = hold(lab, netns, vip, 80, 4000);
      await startAgent(lab.plan, lab.manager);
      await serves(w1, 'placed');
      assert.ok(await held < 500);
      assert.deepEqual(pidsOf(await lab.running('web', 4)), pidsOf(tasks));
    });

    test('the manager killed again and again: every acknowledged write is there, tasks and traffic untouched', { timeout: 90_000 },
      async () => {
      const KILLS = 20;
      const tasks = await lab.running('web', 4);
      const load = new Load(lab, lab.plan.clientNetns, [lab.workers[0]?.address ?? '', lab.manager.address], 8080);
      // What must be there, and what may be (the answer was lost with the manager): name -> label, undefined is removed.
      const sure = new Map<string, string | undefined>();
      const unsure = new Map<string, (string | undefined)[]>();
      let stop = false;
      let acknowledged = 0;
      const write = async (key: string, value: string | undefined, send: () => Promise<unknown>): Promise<void> => {
        unsure.set(key, [...(unsure.get(key) ?? []), value]);
        await send();
        acknowledged += 1;
        sure.set(key, value);
        unsure.delete(key);
      };
      const spec = (name: string, label: string): object => ({
        Name: name, Labels: { label }, Mode: { Replicated: { Replicas: 0 } }, TaskTemplate: { ContainerSpec: { Image: IMAGE } },
      });
      const client = async (id: number): Promise<void> => {
        for (let i = 0; !stop; i++) {
          const name = `s${id}x${i}`;
          try {
            await write(name, 'a', () => lab.api('POST', '/v1.50/services/create', spec(name, 'a')));
            await write(`n${name}`, '', () => lab.api('POST', '/v1.50/networks/create', { Name: `n${name}`, Driver: 'overlay' }));
            const { Version } = await lab.api<{ Version: { Index: number } }>('GET', `/v1.50/services/${name}`);
            await write(name, 'b', () => lab.api('POST', `/v1.50/services/${name}/update?version=${Version.Index}`, spec(name, 'b')));
            if (i % 2 === 0) await write(name, undefined, () => lab.api('DELETE', `/v1.50/services/${name}`));
            if (i % 3 === 0) await write(`n${name}`, undefined, () => lab.api('DELETE', `/v1.50/networks/n${name}`));
          } catch (error) {
            // The manager is away: the next name. An answer with a refusal would be a bug.
            const message = error instanceof Error ? error.message : String(error);
            assert.match(message,
              /update out of sequence|ECONNREFUSED|ECONNRESET|ENOENT|socket hang up|EPIPE|no answer|not a swarm manager|stopping/,
              `${name}: ${message}`);
            await sleep(20);
          }
        }
      };
      const clients = Promise.all([1, 2, 3].map(client));
      clients.catch(() => { stop = true; });
      for (let kill = 0; kill < KILLS && !stop; kill++) {
        await sleep(Math.random() * 700);
        await lab.killAgent(lab.manager);
        await startAgent(lab.plan, lab.manager);
      }
      await sleep(500);
      stop = true;
      await clients;
      const failed = await load.end();
      assert.ok(acknowledged > 100, `${acknowledged} writes were acknowledged`);
      const listed = await lab.api<{ Spec: { Name: string; Labels: { label?: string } } }[]>('GET', '/v1.50/services');
      const services = new Map(listed.map((s) =>
        [s.Spec.Name, s.Spec.Labels.label]));
      const networks = new Map((await lab.api<{ Name: string }[]>('GET', '/v1.50/networks')).map((n) => [n.Name, '']));
      for (const [key, value] of sure) {
        const found = key.startsWith('n') ? networks.get(key) : services.get(key);
        const allowed = [value, ...(unsure.get(key) ?? [])];
        assert.ok(allowed.includes(found),
          `${key} is ${found}, acknowledged was ${value}, unanswered ${JSON.stringify(unsure.get(key) ?? [])}`);
      }
      for (const name of [...services.keys(), ...networks.keys()].filter((n) => /^n?s\dx/.test(n))) {
        assert.ok(sure.has(name) || unsure.has(name), `${name} was asked for`);
      }
      assert.deepEqual(pidsOf(await lab.running('web', 4)), pidsOf(tasks));
      assert.equal(failed, 0, `${failed} of ${load.requests} requests failed`);
      for (const name of services.keys()) if (name !== 'web') await lab.api('DELETE', `/v1.50/services/${name}`);
      for (const name of networks.keys()) if (/^ns/.test(name)) await lab.api('DELETE', `/v1.50/networks/${name}`);
      await serves(lab.workers[0] as LabNode, 'placed');
    });

    test('the manager killed in the middle of a rolling update: it is finished, and loses no request', { timeout: 90_000 }, async () => {
      const before = await lab.running('web', 4);
      const load = new Load(lab, lab.plan.clientNetns, lab.plan.nodes.map((n) => n.address), 8080);
      await lab.docker('service', 'update', '-d', '--force', '--update-parallelism', '1', '--update-monitor', '300ms', 'web');
      for (let kill = 0; kill < 3; kill++) {
        await sleep(300 + Math.random() * 700);
        await lab.killAgent(lab.manager);
        await startAgent(lab.plan, lab.manager);
      }
      await eventually('the end of the update', 60_000, async () => {
        assert.equal(await lab.docker('service', 'inspect', '--format', '{{.UpdateStatus.State}}', 'web'), 'completed');
      });
      const after = await lab.running('web', 4);
      assert.ok(after.every((task) => !before.some((other) => other.ID === task.ID)), 'every task was replaced');
      assert.equal(await load.end(), 0, `${load.errors.length} of ${load.requests} requests failed: ${load.errors.slice(0, 3).join('; ')}`);
    });

    test('drain moves the tasks and loses no request; active takes new ones', { timeout: 90_000 }, async (t) => {
      const [w1, w2] = lab.workers as [LabNode, LabNode];
      const load = new Load(lab, lab.plan.clientNetns, lab.plan.nodes.map((n) => n.address), 8080);
      await lab.docker('node', 'update', '--availability', 'drain', w1.name);
      t.after(() => lab.docker('node', 'update', '--availability', 'active', w1.name));
      await eventually('all tasks on the other worker', 30_000, async () => {
        const { ID } = await nodeState(w2);
        assert.deepEqual((await lab.running('web', 4)).map((t) => t.NodeID), [ID, ID, ID, ID]);
      });
      await sleep(1500);
      const failed = await load.end();
      assert.equal(failed, 0, `${failed} of ${load.requests} requests failed: ${load.errors.slice(0, 3).join('; ')}`);
      await eventually('nothing left on the drained node', 15_000, async () => {
        assert.deepEqual(await readdir(`${w1.runDir}/netns`), []);
      });
      await lab.docker('node', 'update', '--availability', 'active', w1.name);
      await lab.docker('service', 'update', '-q', '--force', '--update-parallelism', '4', '--update-monitor', '500ms', 'web');
      await onNode(await lab.running('web', 4), w1);
    });

    test('a task stops only after every node let go of it; a silent node is waited for, but not for ever', { timeout: 90_000 },
      async () => {
      const [w1, w2] = lab.workers as [LabNode, LabNode];
      // Earlier tests may have had drains that rightly timed out.
      const countedBefore = (await drainTimeouts(lab)).length;
      await lab.docker('service', 'create', '-q', '--name', 'pair', '--network', 'net', '--replicas', '2', '-p', '8085:80',
        '--update-order',
        'start-first',
        '--stop-grace-period', '1s', '--constraint', `node.hostname==${w1.name}`, IMAGE, '/bin/probe', 'serve', '80');
      const pair = await lab.running('pair', 2);
      // Paused for a while: requests through the paused node never meet a stopped task.
      const paused = await lab.agentPid(w2);
      process.kill(paused, 'SIGSTOP');
      try {
        const load = new Load(lab, lab.plan.clientNetns, [w2.address, lab.manager.address], 8085);
        await lab.docker('service', 'scale', '-d', 'pair=1');
        await sleep(2500);
        const alive = pair.filter((t) => alivePid(t.Status.ContainerStatus?.PID ?? 0)).length;
        assert.equal(alive, 2, 'the task waits for the paused node');
        process.kill(paused, 'SIGCONT');
        await eventually('one task stopped', 5000, async () => assert.equal(pair.filter((t) =>
          alivePid(t.Status.ContainerStatus?.PID ?? 0)).length, 1));
        const failed = await load.end();
        assert.equal(failed, 0, `${failed} of ${load.requests} requests failed: ${load.errors.slice(0, 3).join('; ')}`);
        // Paused for good: after five seconds the task is stopped all the same.
        await lab.docker('service', 'scale', 'pair=2');
        const again = await lab.running('pair', 2);
        const two = new Load(lab, lab.plan.clientNetns, [w1.address, lab.manager.address], 8085);
        process.kill(paused, 'SIGSTOP');
        const since = Date.now();
        await lab.docker('service', 'scale', '-d', 'pair=1');
        await eventually('one task stopped', 15_000, async () => assert.equal(again.filter((t) =>
          alivePid(t.Status.ContainerStatus?.PID ?? 0)).length, 1));
        const waited = Date.now() - since;
        assert.ok(waited > 4000 && waited < 9000, `stopped after ${waited} ms`);
        const counted = (await drainTimeouts(lab)).slice(countedBefore);
        assert.equal(counted.length, 1, 'the drain that timed out is counted, the one that waited is not');
        assert.match(counted[0] ?? '', new RegExp(`"waitedFor":\\["${(await nodeState(w2)).ID}"\\],"drainTimeouts":`));
        assert.equal(await two.end(), 0, `requests through nodes that answer: ${two.errors.slice(0, 3).join('; ')}`);
      } finally {
        process.kill(paused, 'SIGCONT');
      }
      await lab.docker('service', 'rm', 'pair');
    });

    test('a lost node: down within 20 s, its tasks move, nothing leads to it; it is taken back when it returns', { timeout: 90_000 },
      async () => {
      const [w1, w2] = lab.workers as [LabNode, LabNode];
      const before = await lab.running('web', 4);
      const { ID } = await nodeState(w2);
      const lost = before.filter((t) => t.NodeID === ID);
      assert.ok(lost.length > 0);
      const since = Date.now();
      await lab.killAgent(w2);
      process.kill(await lab.datapathPid(w2), 'SIGKILL');
      await lab.inside(w2.netns, 'ip', ['link', 'set', 'eth0', 'down']);
      await eventually('the node is down', 22_000, async () => {
        assert.match(await lab.docker('node', 'ls'), /w2\s+Down\s+Active/);
      });
      const downAfter = Date.now() - since;
      assert.ok(downAfter < 21_000, `down after ${downAfter} ms`);
      const { ID: w1Id } = await nodeState(w1);
      await eventually('its tasks moved', 15_000, async () => {
        assert.deepEqual((await lab.running('web', 4)).map((t) => t.NodeID), [w1Id, w1Id, w1Id, w1Id]);
      });
      const now = await lab.running('web', 4);
      const netns = await lab.netnsOf(now[0] as TaskJson);
      assert.deepEqual(await names(netns, 'tasks.web'), now.map((t) => addressIn(t, 'net')).sort());
      for (let i = 0; i < 8; i++) {
        await lab.ask(netns, vip, 80);
        await lab.ask(lab.plan.clientNetns, lab.manager.address, 8080);
      }
      await lab.inside(w2.netns, 'ip', ['link', 'set', 'eth0', 'up']);
      for (const task of lost) assert.ok(alivePid(task.Status.ContainerStatus?.PID ?? 0), 'they ran on, cut off');
      await startAgent(lab.plan, w2);
      await ready(w2, 10_000);
      await eventually('the old tasks are stopped', 15_000, async () => {
        for (const task of lost) assert.ok(!alivePid(task.Status.ContainerStatus?.PID ?? 0));
      });
      await serves(w2, 'placed');
      await eventually('the port of the returned node', 3000, () => lab.ask(lab.plan.clientNetns, w2.address, 8080));
      assert.deepEqual(pidsOf(await lab.running('web', 4)), pidsOf(now), 'the tasks that moved stay');
    });
  });
}

/** Lines of the manager's log that count a drain that was not acknowledged in time. */
async function drainTimeouts(lab: Lab): Promise<string[]> {
  return (await readFile(`${lab.manager.runDir}/agent.log`, 'utf8')).split('\n').filter((line) => line.includes('"drainTimeouts"'));
}

function alivePid(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
