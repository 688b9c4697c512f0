// Wrong input through the real CLIs: refused at once in Docker's words, or, where Docker leaves it to the nodes, told
// in `service ps`; nothing is half done afterwards.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { CLIS, IMAGE, Lab, eventually, type Output } from './fixture.js';

/** Every refusal comes within this time. */
const REFUSED_MS = 2000;

describe('bad input', { timeout: 240_000 }, () => {
  let lab: Lab;
  const cmd = ['sleep', '1000'];

  before(async () => {
    lab = await Lab.up('tsfault3', { workers: 1 });
    await lab.docker('network', 'create', '-d', 'overlay', '--subnet', '10.50.0.0/24', 'net');
    await lab.docker('service', 'create', '-q', '--name', 'web', '--network', 'net', '-p', '8080:80', IMAGE, ...cmd);
    await lab.docker('service', 'create', '-q', '--name', 'hosted', '--publish', 'mode=host,target=80,published=9090', IMAGE, ...cmd);
  });
  after(async () => lab?.down());

  const lists = async (): Promise<string> => JSON.stringify([
    await lab.docker('service', 'ls', '--format', '{{.Name}} {{.Replicas}} {{.Image}} {{.Ports}}'), await lab.docker('network', 'ls',
      '--format', '{{.Name}}'),
  ]);
  const run = async (cli: string, args: readonly string[], socket = lab.manager.socket): Promise<Output & { ms: number }> => {
    const since = Date.now();
    const { command } = await import('./fixture.js');
    const output = await command(cli, ['-H', `unix://${socket}`, ...args], { timeoutMs: 20_000 });
    return { ...output, ms: Date.now() - since };
  };
  const refusedBy = async (cli: string, args: readonly string[], words: RegExp, socket?: string): Promise<void> => {
    const { code, stdout, stderr, ms } = await run(cli, args, socket);
    assert.notEqual(code, 0, `${args.join(' ')}: ${stdout}`);
    assert.match(stderr, words, args.join(' '));
    assert.ok(ms < REFUSED_MS, `${args.join(' ')}: ${ms} ms`);
  };
  const create = (...args: string[]): string[] => ['service', 'create', '-d', '--name', 'bad', ...args];
  const reason = (service: string, words: RegExp): Promise<string> => eventually(`the reason of ${service}`, 3000, async () => {
    const ps = await lab.docker('service', 'ps', '--no-trunc', service);
    assert.match(ps, words);
    return ps;
  });

  for (const cli of CLIS) {
    const refused = (args: readonly string[], words: RegExp, socket?: string): Promise<void> => refusedBy(cli, args, words, socket);

    test(`${cli}: services`, async () => {
      const before = await lists();
      await refused(create('-p', '8080:80', IMAGE, ...cmd),
        /port '8080' is already in use by service 'web' \([0-9a-z]{25}\) as an ingress port/);
      await refused(create('--publish', 'mode=host,target=80,published=8080', IMAGE, ...cmd),
        /port '8080' is already in use by service 'web' \([0-9a-z]{25}\) as an ingress port/);
      await refused(create('-p', '9090:80', IMAGE, ...cmd),
        /port '9090' is already in use by service 'hosted' \([0-9a-z]{25}\) as a host-published port/);
      await refused(create('-p', '81:80', '-p', '81:81', IMAGE, ...cmd), /EndpointSpec: duplicate published ports provided/);
      await refused(create('--endpoint-mode', 'dnsrr', '-p', '81:80', IMAGE, ...cmd),
        /EndpointSpec: port published with ingress mode can't be used with dnsrr mode/);
      await refused(create('-p', '70000:80', IMAGE), /invalid (hostPort|argument)/i);
      await refused(create('-p', 'abc:80', IMAGE), /invalid (hostPort|argument)/i);
      await refused(create('--publish', 'published=81,target=70000', IMAGE, ...cmd),
        /invalid (target port|argument|hostPort|containerPort)/i);
      await refused(create('--network', 'nope', IMAGE, ...cmd), /network nope not found|No such network: nope/);
      await refused(create('--network', 'ingress', IMAGE, ...cmd),
        /Service cannot be explicitly attached to the ingress network "ingress"/);
      await refused(create('--network', 'bridge', IMAGE, ...cmd),
        /The network bridge cannot be used with services\. Only networks scoped to the swarm can be used, such as those created with the overlay driver\./);
      await refused(['service', 'create', '-d', '--name', 'web', IMAGE, ...cmd],
        /name conflicts with an existing object: service web already exists/);
      await refused(['service', 'create', '-d', '--name', 'not_ok-', IMAGE, ...cmd], /name must be valid as a DNS name component/);
      await refused(['service', 'create', '-d', '--name', 'a'.repeat(64), IMAGE, ...cmd], /name must be 63 characters or fewer/);
      await refused(create('--constraint', 'node.role=worker', IMAGE, ...cmd), /constraint expected one operator from ==, !=/);
      await refused(create('--constraint', '1node==x', IMAGE, ...cmd), /key '1node' is invalid/);
      await refused(create('--limit-memory', '1m', IMAGE, ...cmd), /invalid memory value 1048576: Must be at least 4MiB/);
      await refused(create('--mount', 'type=bind,src=relative,dst=/x', IMAGE, ...cmd),
        /invalid (bind )?mount (source|config).*must be an absolute path|is invalid/i);
      await refused(create('--mount', 'type=volume,src=v,dst=/x', '--mount', 'type=volume,src=w,dst=/x', IMAGE, ...cmd),
        /[Dd]uplicate mount point/);
      await refused(create('--mount', 'type=nonsense,dst=/x', IMAGE, ...cmd), /invalid/);
      await refused(create('--hostname', '{{.Nonsense}}', IMAGE, ...cmd), /expanding hostname failed/);
      await refused(['service', 'update', '-d', '--publish-add', '9090:80', 'web'], /port '9090' is already in use by service 'hosted'/);
      await refused(['service', 'update', '-d', '--constraint-add', 'nonsense', 'web'], /constraint expected one operator from ==, !=/);
      await refused(['service', 'update', '-d', '--network-add', 'nope', 'web'], /network nope not found|No such network: nope/);
      await refused(['service', 'scale', '-d', 'nope=1'], /(service nope not found|no such service: nope)/i);
      await refused(['service', 'rm', 'nope'], /(service nope not found|no such service: nope)/i);
      await refused(['service', 'inspect', 'nope'], /no such service: nope/i);
      await refused(['service', 'logs', 'nope'], /no such (task or )?service: nope|no such (service or )?task/i);
      await refused(['service', 'rollback', '-d', 'web'], /does not have a previous spec/);
      assert.equal(await lists(), before);
    });

    test(`${cli}: networks`, async () => {
      const before = await lists();
      const make = (...args: string[]): string[] => ['network', 'create', '-d', 'overlay', ...args];
      const overlap = /[Pp]ool overlaps with other one on this address space/;
      await refused(make('net'), /network with name net already exists/);
      await refused(make('--subnet', '10.50.0.0/24', 'other'), overlap);
      await refused(make('--subnet', '10.50.0.128/25', 'other'), overlap);
      await refused(make('--subnet', '10.0.0.0/8', 'other'), overlap);
      await refused(make('--subnet', '10.51.0.0/24', '--subnet', '10.51.0.0/16', 'other'), /overlap/i);
      await refused(make('--subnet', '10.51.0.1/24', 'other'), /invalid subnet 10\.51\.0\.1\/24: it should be 10\.51\.0\.0\/24|invalid/);
      await refused(make('--subnet', 'nonsense', 'other'), /invalid/);
      await refused(make('--subnet', '10.51.0.0/24', '--gateway', '10.52.0.1', 'other'),
        /(no matching subnet for gateway|does not contain)/);
      await refused(make('--subnet', '10.51.0.0/24', '--ip-range', '10.52.0.0/25', 'other'),
        /(no matching subnet for range|does not contain)/);
      await refused(make('bad/name'), /name must be valid as a DNS name component|invalid/i);
      await refused(make('--ingress', 'ingress2'), /ingress network \([0-9a-z]{25}\) is already present/);
      await refused(make('bridge'), /operation is not permitted on predefined bridge network/);
      await refused(['network', 'create', '-d', 'nonsense', 'other'], /nonsense/);
      await refused(['network', 'rm', 'net'], /network [0-9a-z]{25} is in use by service [0-9a-z]{25}/);
      await refused(['network', 'rm', 'nope'], /network nope not found|no such network: nope/i);
      await refused(['network', 'rm', 'bridge'], /bridge is a pre-defined network and cannot be removed/);
      assert.equal(await lists(), before);
    });

    test(`${cli}: nodes and swarm`, async () => {
      const before = await lists();
      await refused(['node', 'update', '--availability', 'drain', 'nope'], /(node nope not found|no such node: nope)/i);
      await refused(['node', 'update', '--availability', 'nonsense', 'w1'], /[Aa]vailability/);
      await refused(['node', 'demote', 'm1'], /attempting to demote the last manager of the swarm/);
      await refused(['node', 'rm', 'w1'], /node [0-9a-z]{25} is not down and can't be removed/);
      await refused(['node', 'rm', '--force', 'm1'],
        /is a cluster manager and is a member of the raft cluster\. It must be demoted to worker before removal/);
      await refused(['node', 'ps', 'nope'], /no such node|node nope not found/i);
      await refused(['swarm', 'update', '--cert-expiry', '1m'], /minimum certificate expiry time is: 1h0m0s/);
      await refused(['swarm', 'init'], /This node is already part of a swarm/);
      await refused(['swarm', 'leave'], /Removing the last manager erases all current state of the swarm/);
      assert.equal(await lists(), before);
    });

    test(`${cli}: on a worker every command of a manager is refused`, async () => {
      const worker = lab.workers[0]?.socket ?? '';
      const words = /This node is not a swarm manager\. Worker nodes can't be used to view or modify cluster state\. Please run this command on a manager node or promote the current node to a manager\./;
      const commands = [['node', 'ls'], ['service', 'ls'], ['service', 'create', '-d', IMAGE], ['service', 'rm', 'web'], ['service', 'ps',
        'web'], ['service', 'inspect', 'web'],
        ['network', 'create', '-d', 'overlay', 'q'], ['swarm', 'join-token', 'worker'], ['swarm', 'update', '--task-history-limit', '3'],
          ['node', 'ps'], ['secret', 'ls'], ['config', 'ls']];
      for (const args of commands) await refused(args, words, worker);
    });
  }

  test('an unknown image: told at once, with and without --detach', async () => {
    const before = await lists();
    for (const cli of CLIS) {
      await refusedBy(cli, ['service', 'create', '-d', '--name', 'unknown', 'nosuch:1'], /No such image: nosuch:1/);
      await refusedBy(cli, ['service', 'create', '--name', 'unknown', 'nosuch:1'], /No such image: nosuch:1/);
      await refusedBy(cli, ['service', 'update', '-d', '--image', 'nosuch:1', 'web'], /No such image: nosuch:1/);
    }
    assert.equal(await lists(), before);
  });

  test('a bind source that is missing on the node: rejected with the reason, tried again only after the restart delay', async () => {
    await lab.docker('service', 'create', '-d', '--name', 'bound', '--restart-delay', '5s', '--mount',
      'type=bind,src=/nonexistent/x,dst=/x', IMAGE, ...cmd);
    const ps = await reason('bound',
      /Rejected .*"invalid mount config for type "bind": bind source path does not exist: \/nonexistent\/x"/);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const tasks = (await lab.docker('service', 'ps', '-q', 'bound')).split('\n').length;
    assert.ok(tasks <= 2, `${tasks} tasks within two seconds: ${ps}`);
    await lab.docker('service', 'rm', 'bound');
  });

  test('what cannot be placed says why at once', async () => {
    await lab.docker('service', 'create', '-d', '--name', 'nowhere', '--constraint', 'node.labels.x==y', IMAGE, ...cmd);
    await reason('nowhere', /Pending .*"no suitable node \(scheduling constraints not satisfied on 2 nodes\)"/);
    await lab.docker('service', 'create', '-d', '--name', 'greedy', '--reserve-memory', '9000g', IMAGE, ...cmd);
    await reason('greedy', /"no suitable node \(insufficient resources on 2 nodes\)"/);
    await lab.docker('service', 'create', '-d', '--name', 'one', '--replicas', '3', '--replicas-max-per-node', '1', IMAGE, ...cmd);
    await reason('one', /"no suitable node \(max replicas per node limit exceed\)"/);
    await lab.docker('service', 'create', '-d', '--name', 'bound', '--replicas', '3', '--publish', 'mode=host,target=80,published=9191',
      IMAGE, ...cmd);
    await reason('bound', /"no suitable node \(host-mode port already in use on 2 nodes\)"/);
    await lab.docker('service', 'rm', 'nowhere', 'greedy', 'one', 'bound');
  });

  test('a full network: as many tasks as fit, the others say why; room is used when it comes', async () => {
    await lab.docker('network', 'create', '-d', 'overlay', '--subnet', '10.77.0.0/29', 'tiny');
    await lab.docker('service', 'create', '-d', '--name', 'many', '--replicas', '9', '--network', 'tiny', IMAGE, ...cmd);
    const ps = await reason('many', /"no free address in network tiny"/);
    assert.ok(ps);
    const fit = await eventually('tasks that fit', 10_000, async () => {
      const { length } = (await lab.tasks('many')).filter((t) => t.Status.State === 'running');
      assert.ok(length >= 2 && length <= 5, `${length} run`);
      return length;
    });
    await lab.docker('service', 'scale', '-d', `many=${fit}`);
    await lab.running('many', fit);
    await lab.docker('service', 'scale', '-d', 'many=1');
    await lab.running('many', 1);
    await lab.docker('service', 'create', '-d', '--name', 'second', '--network', 'tiny', IMAGE, ...cmd);
    await lab.running('second', 1);
    await lab.docker('service', 'rm', 'many', 'second');
    await eventually('the network goes', 15_000, () => lab.docker('network', 'rm', 'tiny'));
  });

  for (const cli of CLIS) {
    const refused = (args: readonly string[], words: RegExp, socket?: string): Promise<void> => refusedBy(cli, args, words, socket);
    test(`${cli}: outside a swarm`, async () => {
      const left = await run(cli, ['swarm', 'leave'], lab.workers[0]?.socket);
      assert.equal(left.code, 0, left.stderr);
      const words = /This node is not a swarm manager\. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again\./;
      for (const args of [['node', 'ls'], ['service', 'ls'], ['service', 'create', '-d', IMAGE], ['network', 'create', '-d', 'overlay',
        'q'], ['swarm', 'join-token', 'worker']]) {
        await refused(args, words, lab.workers[0]?.socket);
      }
      await refused(['swarm', 'leave'], /This node is not part of a swarm/, lab.workers[0]?.socket);
      await refused(['swarm', 'join', '--token', 'nonsense', lab.manager.address], /invalid join token/, lab.workers[0]?.socket);
      await refused(['swarm', 'init', '--advertise-addr', 'nonsense'],
        /advertise address must be a non-zero IP address or network interface|must be/, lab.workers[0]?.socket);
      await refused(['swarm', 'init', '--default-addr-pool', 'nonsense'], /invalid/i, lab.workers[0]?.socket);
      const joined = await run(cli, ['swarm', 'join', '--token', await lab.docker('swarm', 'join-token', '-q', 'worker'),
        lab.manager.address], lab.workers[0]?.socket);
      assert.equal(joined.code, 0, joined.stderr);
    });
  }
});
