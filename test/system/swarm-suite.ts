// What a user of a swarm notices, as one suite for both runtimes: services, addresses, ports, names, logs, updates.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { CLIS, IMAGE, Lab, addressIn, eventually, finished, sleep } from './fixture.js';

export function swarmSuite(name: string, runtime: 'oci' | 'docker'): void {
  describe(`a swarm of three nodes, ${runtime} runtime`, { timeout: 240_000 }, () => {
    let lab: Lab;
    before(async () => {
      // Either runtime with another CLI: between them both are driven.
      const cli = runtime === 'docker' ? CLIS.at(-1) : CLIS[0];
      lab = await Lab.up(name, { runtime, ...(cli === undefined ? {} : { cli }) });
      await lab.docker('network', 'create', '-d', 'overlay', 'net');
      await lab.docker('service', 'create', '-q', '--name', 'web', '--network', 'net', '--replicas', '3', '-p', '8080:80',
        '--publish', 'published=8081,target=80,protocol=udp', '--constraint', 'node.role==worker', IMAGE, '/bin/probe', 'serve', '80');
    });
    after(async () => lab?.down());

    test('service create converges and the CLI shows it', async () => {
      assert.match(await lab.docker('service', 'ls'), /web\s+replicated\s+3\/3\s+probe:1\s+\*:8080->80\/tcp, \*:8081->80\/udp/);
      const ps = await lab.docker('service', 'ps', 'web');
      assert.equal(ps.split('\n').filter((line) => /web\.[123]\s.*\sw[12]\s+Running\s+Running/.test(line)).length, 3, ps);
    });

    test('every node answers the published port with the client\'s real address, also the one without a task', async () => {
      const seen = new Set<string>();
      for (const node of lab.plan.nodes) {
        for (let i = 0; i < 3; i++) {
          const { task, client } = await lab.ask(lab.plan.clientNetns, node.address, 8080);
          assert.equal(client, lab.plan.clientAddress, `through ${node.name}`);
          seen.add(task);
        }
      }
      assert.equal(seen.size, 3, 'all tasks take part');
    });

    test('127.0.0.1 and the node\'s own address answer on every node', async () => {
      for (const node of lab.plan.nodes) {
        assert.notEqual((await lab.ask(node.netns, '127.0.0.1', 8080)).task, '');
        assert.notEqual((await lab.ask(node.netns, node.address, 8080)).task, '');
      }
    });

    test('a published UDP port keeps the client\'s address too', async () => {
      for (const node of lab.plan.nodes) {
        assert.equal((await lab.askUdp(lab.plan.clientNetns, node.address, 8081)).client, lab.plan.clientAddress, node.name);
        assert.notEqual((await lab.askUdp(node.netns, '127.0.0.1', 8081)).task, '');
      }
    });

    test('tasks reach each other by address, by VIP (also themselves), and not another network', async () => {
      const tasks = await lab.running('web', 3);
      const first = tasks[0];
      assert.ok(first);
      const netns = await lab.netnsOf(first);
      for (const task of tasks) {
        const answer = await lab.ask(netns, addressIn(task, 'net'), 80);
        assert.equal(answer.client, task === first ? addressIn(first, 'net') : addressIn(first, 'net'));
      }
      const service = await lab.api<{ Endpoint: { VirtualIPs: { Addr: string }[] } }>('GET', '/v1.50/services/web');
      const vip = (service.Endpoint.VirtualIPs[0]?.Addr ?? '').split('/')[0] as string;
      const answered = new Set<string>();
      for (let i = 0; i < 6; i++) answered.add((await lab.ask(netns, vip, 80)).task);
      assert.equal(answered.size, 3, 'the VIP balances over all tasks, the asker included');
      await lab.docker('network', 'create', '-d', 'overlay', 'other');
      await lab.docker('service', 'create', '-q', '--name', 'stranger', '--network', 'other', IMAGE, '/bin/probe', 'serve', '80');
      const [stranger] = await lab.running('stranger', 1);
      assert.ok(stranger);
      const from = await lab.netnsOf(stranger);
      const refused = await lab.inside(from, 'curl', ['-sS', '--max-time', '1', `http://${addressIn(first, 'net')}/`]);
      assert.notEqual(refused.code, 0, 'networks are isolated');
      await lab.docker('service', 'rm', 'stranger');
      await eventually('network removal', 20_000, () => lab.docker('network', 'rm', 'other'));
    });

    test('names: service, tasks, container, reverse; other networks\' names are unknown', async () => {
      const tasks = await lab.running('web', 3);
      const netns = await lab.netnsOf(tasks[0] as never);
      const dig = async (...args: string[]): Promise<string[]> => {
        const output = await lab.inside(netns, 'dig', ['@127.0.0.11', '+short', '+tries=1', '+time=3', ...args]);
        return output.stdout.trim().split('\n').filter((line) => line !== '').sort();
      };
      assert.equal((await dig('web')).length, 1);
      const all = tasks.map((t) => addressIn(t, 'net')).sort();
      assert.deepEqual(await dig('tasks.web'), all);
      assert.deepEqual(await dig('+tcp', 'tasks.web'), all);
      const one = tasks[1];
      assert.ok(one);
      assert.deepEqual(await dig(`web.${one.Slot}.${one.ID}`), [addressIn(one, 'net')]);
      assert.deepEqual(await dig('-x', addressIn(one, 'net')), [`web.${one.Slot}.${one.ID}.net.`]);
    });

    test('names work from inside a task through its resolv.conf', async () => {
      await lab.docker('service', 'create', '-q', '--name', 'asker', '--network', 'net', '--restart-condition', 'none', '-d',
        IMAGE, 'sh', '-c', 'wget -qO- http://web/ && hostname && cat /etc/resolv.conf && sleep 60');
      const text = await eventually('the asker\'s log', 20_000, async () => {
        const log = await lab.docker('service', 'logs', '--raw', 'asker');
        assert.match(log, /nameserver 127\.0\.0\.11/);
        return log;
      });
      const [asker] = await lab.tasks('asker');
      assert.ok(asker);
      assert.match(text, new RegExp(`^[0-9a-z]{12} ${addressIn(asker, 'net')}`), text);
      await lab.docker('service', 'rm', 'asker');
    });

    test('unknown names go upstream, to the service\'s own servers', async () => {
      // A server that answers every question with 203.0.113.7: the question, one A record by pointer.
      const server = lab.spawnInside(lab.plan.clientNetns, process.execPath, ['-e', `
        const socket = require('dgram').createSocket('udp4');
        socket.on('message', (m, peer) => {
          let end = 12;
          while (m[end] !== 0) end += m[end] + 1;
          const head = Buffer.from(m.subarray(0, end + 5));
          head.set([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0], 2);
          socket.send(Buffer.concat([head, Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 7])]), peer.port, peer.address);
        });
        socket.bind(53, () => console.log('ready'));`]);
      try {
        await new Promise((resolve) => server.stdout?.once('data', resolve));
        await lab.docker('service', 'create', '-q', '--name', 'curious', '--network', 'net', '--dns', lab.plan.clientAddress, IMAGE, '/bin/probe', 'serve', '80');
        const [task] = await lab.running('curious', 1);
        assert.ok(task);
        const output = await lab.inside(await lab.netnsOf(task), 'dig', ['@127.0.0.11', '+short', '+tries=1', '+time=4', 'example.test']);
        assert.equal(output.stdout.trim(), '203.0.113.7');
        const own = await lab.inside(await lab.netnsOf(task), 'dig', ['@127.0.0.11', '+short', '+tries=1', '+time=4', 'curious']);
        assert.notEqual(own.stdout.trim(), '203.0.113.7', 'known names are not asked upstream');
        await lab.docker('service', 'rm', 'curious');
      } finally {
        server.kill('SIGKILL');
      }
    });

    test('a host-mode port is open on the task\'s node only, with the client\'s address', async () => {
      await lab.docker('service', 'create', '-q', '--name', 'hosted', '--constraint', 'node.hostname==w1', '--publish', 'published=8095,target=80,mode=host', IMAGE, '/bin/probe', 'serve', '80');
      const answer = await eventually('the host port', 5000, () => lab.ask(lab.plan.clientNetns, lab.node('w1').address, 8095));
      assert.equal(answer.client, lab.plan.clientAddress);
      const elsewhere = await lab.inside(lab.plan.clientNetns, 'curl', ['-sS', '--max-time', '2', `http://${lab.node('w2').address}:8095/`]);
      assert.notEqual(elsewhere.code, 0);
      assert.match(await lab.docker('service', 'ps', 'hosted'), /\*:8095->80\/tcp/);
      await lab.docker('service', 'rm', 'hosted');
    });

    test('an internal network has no way out', async () => {
      await lab.docker('network', 'create', '-d', 'overlay', '--internal', 'closed');
      await lab.docker('service', 'create', '-q', '--name', 'inner', '--network', 'closed', '--replicas', '2', IMAGE, '/bin/probe', 'serve', '80');
      const [one, two] = await lab.running('inner', 2);
      assert.ok(one && two);
      const netns = await lab.netnsOf(one);
      await lab.ask(netns, addressIn(two, 'closed'), 80);
      const out = await lab.inside(netns, 'curl', ['-sS', '--max-time', '2', `http://${lab.manager.address}:8080/`]);
      assert.notEqual(out.code, 0);
      await lab.docker('service', 'rm', 'inner');
      await eventually('network removal', 20_000, () => lab.docker('network', 'rm', 'closed'));
    });

    test('tasks reach the outside, and ping it', async () => {
      const [task] = await lab.running('web', 3);
      assert.ok(task);
      const netns = await lab.netnsOf(task);
      const server = lab.spawnInside(lab.plan.clientNetns, lab.probe, ['serve', '9000']);
      try {
        const answer = await eventually('egress', 5000, () => lab.ask(netns, lab.plan.clientAddress, 9000));
        assert.equal(answer.client, (await lab.nodeOf(task)).address, 'masqueraded as its node');
        const ping = await lab.inside(netns, 'busybox', ['ping', '-c', '2', '-W', '2', lab.plan.clientAddress]);
        assert.match(ping.stdout, / 0% packet loss/, ping.stdout + ping.stderr);
      } finally {
        server.kill('SIGKILL');
      }
    });

    test('logs: all tasks, tail, and follow sees new lines as they come', async () => {
      await lab.docker('service', 'create', '-q', '--name', 'talk', '--replicas', '2', IMAGE, 'sh', '-c', 'i=0; while true; do i=$((i+1)); echo tick $i; sleep 1; done');
      await eventually('both tasks\' lines', 10_000, async () => {
        const log = await lab.docker('service', 'logs', 'talk');
        assert.match(log, /talk\.1\..*\| tick 1/);
        assert.match(log, /talk\.2\..*\| tick 1/);
      });
      assert.equal((await lab.docker('service', 'logs', '--raw', '-n', '1', 'talk')).split('\n').length, 2);
      const { spawn } = await import('node:child_process');
      const child = spawn(lab.cli, ['-H', `unix://${lab.manager.socket}`, 'service', 'logs', '-f', '--raw', '-n', '0', 'talk'], { stdio: ['ignore', 'pipe', 'pipe'] });
      const output = finished(child);
      await sleep(3500);
      child.kill('SIGINT');
      const lines = (await output).stdout.trim().split('\n').filter((line) => /^tick \d+$/.test(line));
      assert.ok(lines.length >= 4, `followed ${lines.length} lines in 3.5 s from two tasks`);
      await lab.docker('service', 'rm', 'talk');
    });

    test('a killed task is replaced; the restart delay is kept', async () => {
      await lab.docker('service', 'create', '-q', '--name', 'frail', '--restart-delay', '1s', IMAGE, '/bin/probe', 'serve', '80');
      const [task] = await lab.running('frail', 1);
      assert.ok(task?.Status.ContainerStatus && task.Status.ContainerStatus.PID > 0);
      process.kill(task.Status.ContainerStatus.PID, 'SIGKILL');
      const replaced = await eventually('a replacement', 15_000, async () => {
        const [now] = await lab.running('frail', 1);
        assert.notEqual(now?.ID, task.ID);
        return now;
      });
      assert.equal(replaced?.Slot, 1);
      assert.match(await lab.docker('service', 'ps', '--no-trunc', 'frail'), /Failed .*non-zero exit \(137\)/);
      await lab.docker('service', 'rm', 'frail');
    });

    test('scale, update of arguments, environment and image, forced update, global mode', async () => {
      await lab.docker('service', 'create', '-q', '--name', 'app', '-e', 'COLOUR=red', '--hostname', '{{.Service.Name}}-{{.Task.Slot}}', '--stop-grace-period', '1s',
        IMAGE, 'sh', '-c', 'echo colour $COLOUR on $(hostname); sleep 1000');
      await lab.docker('service', 'scale', 'app=2');
      await lab.running('app', 2);
      assert.match(await eventually('logs', 5000, async () => {
        const log = await lab.docker('service', 'logs', '--raw', 'app');
        assert.equal(log.split('\n').length, 2);
        return log;
      }), /colour red on app-[12]/);
      const before = (await lab.running('app', 2)).map((t) => t.ID);
      await lab.docker('service', 'update', '-q', '--update-monitor', '1s', '--env-add', 'COLOUR=blue', '--update-parallelism', '2', 'app');
      const updated = await lab.running('app', 2);
      assert.ok(updated.every((t) => !before.includes(t.ID)), 'both tasks were replaced');
      await eventually('new colour', 5000, async () => assert.match(await lab.docker('service', 'logs', '--raw', 'app'), /colour blue/));
      await lab.docker('service', 'update', '-q', '--force', 'app');
      assert.ok((await lab.running('app', 2)).every((t) => !updated.map((u) => u.ID).includes(t.ID)), 'force replaces');
      await lab.docker('service', 'rm', 'app');
      await lab.docker('service', 'create', '-q', '--name', 'everywhere', '--mode', 'global', IMAGE, '/bin/probe', 'serve', '80');
      assert.equal(new Set((await lab.running('everywhere', 3)).map((t) => t.NodeID)).size, 3);
      await lab.docker('service', 'rm', 'everywhere');
    });

    test('a rolling update loses no request', async () => {
      let failures = 0;
      let requests = 0;
      let stop = false;
      const load = (async () => {
        while (!stop) {
          requests += 1;
          const { code } = await lab.inside(lab.plan.clientNetns, 'curl', ['-sS', '--max-time', '3', '-o', '/dev/null', `http://${lab.manager.address}:8080/`]);
          if (code !== 0) failures += 1;
        }
      })();
      await lab.docker('service', 'update', '-q', '--force', '--update-monitor', '500ms', '--update-parallelism', '1', 'web');
      stop = true;
      await load;
      assert.ok(requests > 20, `${requests} requests during the update`);
      assert.equal(failures, 0, `${failures} of ${requests} requests failed`);
    });

    test('publishing another port and taking one back', async () => {
      await lab.docker('service', 'update', '-q', '--update-monitor', '500ms', '--publish-add', '8090:80', '--publish-rm', '8080:80', 'web');
      await eventually('the new port', 5000, () => lab.ask(lab.plan.clientNetns, lab.manager.address, 8090));
      const gone = await lab.inside(lab.plan.clientNetns, 'curl', ['-sS', '--max-time', '2', `http://${lab.manager.address}:8080/`]);
      assert.notEqual(gone.code, 0, 'the old port is closed');
      await lab.docker('service', 'update', '-q', '--update-monitor', '500ms', '--publish-add', '8080:80', '--publish-rm', '8090:80', 'web');
      await eventually('the port again', 5000, () => lab.ask(lab.plan.clientNetns, lab.manager.address, 8080));
    });
  });
}
