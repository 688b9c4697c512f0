// The stock docker CLIs against the API: every command of the first release, with the words they print. The node
// behind it is a fake with a real store (see support/fake-node.ts), so this tests the API, not the swarm.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pino } from 'pino';
import { startApi, type ApiServer } from '../../src/api/server.js';
import { FakeNode } from '../support/fake-node.js';

const CLIS = [
  { name: '28.2', file: '/usr/local/bin/docker' },
  { name: '20.10', file: '/usr/bin/docker' },
];
const COMMAND_TIMEOUT_MS = 30_000;
const TOKEN = `SWMTKN-1-${'0'.repeat(50)}-${'1'.repeat(25)}`;
const FAST = ['--update-monitor', '300ms'];

const COMPOSE = `version: "3.8"
services:
  a:
    image: app:1
    ports: ["9001:80", {target: 81, published: 9002, mode: host}]
    secrets: [s1]
    configs: [{source: c1, target: /etc/c1}]
    healthcheck: {test: ["CMD", "true"], interval: 5s}
    volumes: ["/tmp:/data:ro", "vol:/v"]
    deploy:
      replicas: 2
      resources: {limits: {cpus: "0.5", memory: 64M}}
      restart_policy: {condition: on-failure, max_attempts: 3}
  b:
    image: app:2
    deploy: {mode: global}
secrets: {s1: {file: s.txt}}
configs: {c1: {file: c.txt}}
volumes: {vol: {}}
`;

interface Output {
  readonly code: number;
  readonly text: string;
}

for (const cli of CLIS) {
  const skip = existsSync(cli.file) ? false : `unsupported: no docker CLI ${cli.name} at ${cli.file}`;
  describe(`docker CLI ${cli.name}`, { skip }, () => suite(cli.file));
}

function suite(file: string): void {
  const node = new FakeNode();
  let folder: string;
  let api: ApiServer;

  before(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), 'skein-cli-'));
    api = await startApi({ socketPath: path.join(folder, 's'), backend: node, logger: pino({ level: 'silent' }) });
    await writeFile(path.join(folder, 'c.yml'), COMPOSE);
    await writeFile(path.join(folder, 's.txt'), 'secret');
    await writeFile(path.join(folder, 'c.txt'), 'config');
    await writeFile(path.join(folder, 'x.tar'), Buffer.alloc(3_000_000));
  });

  after(async () => {
    node.stop();
    await api.close();
    await rm(folder, { recursive: true });
  });

  function docker(...args: string[]): Promise<Output> {
    const env = { ...process.env, DOCKER_CONFIG: folder, HOME: folder };
    return new Promise((resolve) => {
      execFile(file, ['-H', `unix://${folder}/s`, ...args], { timeout: COMMAND_TIMEOUT_MS, env, cwd: folder },
        (error, stdout, stderr) => resolve({
          code: error === null ? 0 : typeof error.code === 'number' ? error.code : 255, text: `${stdout}${stderr}`,
        }));
    });
  }

  async function good(args: string[], ...expected: RegExp[]): Promise<string> {
    const output = await docker(...args);
    assert.equal(output.code, 0, `docker ${args.join(' ')}\n${output.text}`);
    for (const pattern of expected) assert.match(output.text, pattern);
    return output.text;
  }

  async function bad(args: string[], pattern: RegExp): Promise<void> {
    const output = await docker(...args);
    assert.notEqual(output.code, 0, `docker ${args.join(' ')} succeeded\n${output.text}`);
    assert.match(output.text, pattern);
  }

  test('outside a swarm', async () => {
    await good(['version'], /28\.2\.2-skein/, /1\.50 \(minimum version 1\.24\)/);
    await good(['info'], /Swarm: inactive/);
    await bad(['node', 'ls'], /This node is not a swarm manager\. Use "docker swarm init" or "docker swarm join"/);
    await bad(['swarm', 'leave'], /This node is not part of a swarm/);
    await bad(['swarm', 'init', '--advertise-addr', 'nosuch0'], /advertise address must be a non-zero IP address/);
    await bad(['swarm', 'join', '--token', 'x', '10.0.0.9:2377'], /invalid join token/);
    await bad(['swarm', 'join', '--token', TOKEN, '10.0.0.9:2377'], /connection error/);
  });

  test('swarm init, join-token, info, nodes', async () => {
    await good(['swarm', 'init', '--advertise-addr', '10.77.0.1'], /is now a manager/, /docker swarm join --token SWMTKN-1-/);
    await bad(['swarm', 'init'], /This node is already part of a swarm/);
    await bad(['swarm', 'join', '--token', TOKEN, '10.0.0.9:2377'], /This node is already part of a swarm/);
    const before = await good(['swarm', 'join-token', '-q', 'worker'], /^SWMTKN-1-\w{50}-\w{25}$/m);
    const after = await good(['swarm', 'join-token', '-q', '--rotate', 'worker'], /^SWMTKN-1-/m);
    assert.notEqual(before, after);
    assert.equal(before.slice(0, 60), after.slice(0, 60));
    node.addWorker('worker1');
    await good(['info'], /Swarm: active/, /Is Manager: true/, /Nodes: 2/, /Managers: 1/, /Expiry Duration: 3 months/);
    await good(['node', 'ls'], /\* +manager1 +Ready +Active +Leader/, /worker1 +Ready +Active/);
    await good(['node', 'inspect', 'self', '--pretty'], /Hostname: +\tmanager1|Hostname:\s+manager1/, /Leader:\s+Yes/);
    await good(['node', 'update', '--label-add', 'x=y', 'worker1'], /worker1/);
    await good(['node', 'inspect', 'worker1', '--format', '{{json .Spec}}'], /"Labels":\{"x":"y"\}/);
    await bad(['node', 'demote', 'manager1'], /attempting to demote the last manager of the swarm/);
    await good(['node', 'promote', 'worker1'], /Node worker1 promoted to a manager in the swarm/);
    await good(['node', 'demote', 'worker1'], /Manager worker1 demoted in the swarm/);
    await bad(['node', 'rm', 'worker1'], /is not down and can't be removed/);
    await good(['swarm', 'update', '--task-history-limit', '3'], /Swarm updated/);
  });

  test('networks', async () => {
    await good(['network', 'create', '-d', 'overlay', '--subnet', '10.9.0.0/24', '--attachable', 'net1']);
    await bad(['network', 'create', '-d', 'overlay', '--subnet', '10.9.0.0/25', 'net2'], /Pool overlaps with other one/);
    await bad(['network', 'create', '-d', 'overlay', 'net1'], /network with name net1 already exists/);
    await bad(['network', 'create', 'local'], /use.*-d overlay|with `-d overlay`/);
    await good(['network', 'ls'], /bridge +bridge +local/, /ingress +overlay +swarm/, /net1 +overlay +swarm/);
    await good(['network', 'ls', '-q', '-f', 'driver=overlay', '-f', 'name=net1'], /^\w{12}\n$/);
    await good(['network', 'inspect', '-v', 'net1'], /"Subnet": "10\.9\.0\.0\/24"/, /"Attachable": true/);
    await bad(['network', 'inspect', 'nope'], /network nope not found|No such network: nope/);
  });

  test('service create waits and converges; ls, ps, inspect, logs', async () => {
    const created = await good(['service', 'create', '--name', 'web', '--replicas', '3', '-p', '8080:80', '--network', 'net1',
      '--env', 'A=b', '--hostname', 'h-{{.Task.Slot}}', '--constraint', 'node.labels.x!=z', ...FAST, 'app:1', 'sleep', '100'],
    /3 out of 3 tasks/, /converged/);
    assert.match(created, /^\w{25}$/m);
    await good(['service', 'create', '--name', 'glob', '--mode', 'global', ...FAST, 'app:1'], /2 out of 2 tasks/, /converged/);
    await good(['service', 'ls'], /web +replicated +3\/3 +app:1 +\*:8080->80\/tcp/, /glob +global +2\/2/);
    await good(['service', 'ps', 'web'], /web\.1 .*Running/, /web\.3 /);
    await good(['service', 'inspect', '--pretty', 'web'], /Replicas:\t3/, /PublishedPort = 8080/, /Networks: net1/, /Env:\t\tA=b/);
    await good(['service', 'logs', 'web'], /web\.1\.\w{12}@(manager1|worker1) +\| line 0/);
    await good(['service', 'logs', '--raw', '--tail', '1', 'web'], /^line 2\nline 2\nline 2\n$/);
    await good(['node', 'ps', 'self'], /glob\.\w{25}/);
    await good(['ps'], /web\.\d\.\w{25}/, /Up 2 minutes/);
  });

  test('service scale, update, rollback', async () => {
    await good(['service', 'scale', 'web=5'], /web scaled to 5/, /converged/);
    assert.equal(node.view.list('task').filter((task) => task.serviceAnnotations?.name === 'web').length, 5);
    await good(['service', 'update', '--image', 'app:2', '--args', 'sleep 5', '--env-add', 'C=d', '--publish-add', '8081:81', 'web'],
      // The fake reports the update completed before the CLI saw it converge: the CLI then ends without the last line.
      /overall progress: \d out of 5 tasks/);
    await good(['service', 'inspect', 'web', '--format', '{{json .UpdateStatus}}'], /"State":"completed"/);
    await good(['service', 'ps', 'web'], /app:2 .*Running/, /app:1 .*Shutdown/);
    await good(['service', 'rollback', 'web'], /rollback|converged/i);
    await good(['service', 'inspect', 'web', '--format', '{{.Spec.TaskTemplate.ContainerSpec.Image}}'], /^app:1$/m);
    await good(['service', 'update', '--force', '-d', 'glob']);
    await good(['service', 'update', '--publish-rm', '8080', '-d', 'web']);
  });

  test('bad services are refused at once', async () => {
    const create = ['service', 'create', '-d', '--name', 'bad'];
    await good(['service', 'create', '-d', '--name', 'p', '-p', '80:80', 'app:1']);
    await bad(['service', 'create', '-d', '--name', 'web', 'app:1'], /name conflicts with an existing object: service web already exists/);
    await bad([...create, '-p', '80:80', 'app:1'], /port '80' is already in use by service 'p' \(\w{25}\) as an ingress port/);
    await bad([...create, '--network', 'nope', 'app:1'], /network nope not found|No such network: nope/);
    await bad([...create, '--mount', 'type=bind,src=rel,dst=/x', 'app:1'], /must be an absolute path|must be absolute/);
    await bad([...create, '--limit-memory', '1M', 'app:1'], /Must be at least 4MiB/);
    await bad([...create, '--constraint', 'x', 'app:1'], /constraint expected one operator from ==, !=/);
    await bad([...create, '--endpoint-mode', 'dnsrr', '-p', '81:80', 'app:1'], /can't be used with dnsrr mode/);
    await bad(['service', 'inspect', 'nope'], /no such service: nope/);
    await bad(['service', 'update', '-d', 'nope'], /service nope not found|No such service: nope/);
    await bad(['network', 'rm', 'net1'], /is in use by service/);
    await bad(['run', '--rm', 'app:1'], /running a container outside a service is not supported/);
  });

  test('images', async () => {
    await good(['load', '-i', 'x.tar'], /Loaded image: loaded:latest/);
    await good(['import', 'x.tar', 'my/app:3'], /^sha256:[0-9a-f]{64}$/m);
    await good(['image', 'ls'], /my\/app +3 /, /loaded +latest .*3MB/);
    await good(['image', 'inspect', 'my/app:3', '--format', '{{.Size}}'], /^3000000$/m);
    await good(['image', 'rm', 'my/app:3'], /Untagged: my\/app:3/, /Deleted: sha256/);
    await bad(['image', 'inspect', 'nope'], /No such image: nope/);
    await bad(['pull', 'app:1'], /docker load/);
  });

  test('stack, secrets, configs', async () => {
    await good(['stack', 'deploy', '-c', 'c.yml', 'st'], /Creating network st_default/, /Creating service st_a/);
    await good(['stack', 'deploy', '-c', 'c.yml', 'st'], /Updating service st_a/);
    await good(['stack', 'ls'], /st +2/);
    await good(['stack', 'services', 'st'], /st_a +replicated/, /st_b +global/);
    await good(['stack', 'ps', 'st'], /st_a\.1/, /st_b\.\w{25}/);
    await good(['secret', 'ls'], /st_s1/);
    await good(['config', 'inspect', '--pretty', 'st_c1'], /Data:\nconfig/);
    await bad(['secret', 'rm', 'st_s1'], /secret 'st_s1' is in use by the following service: st_a/);
    await good(['service', 'inspect', '--pretty', 'st_a'], /Type:\t\tbind/, /Memory:\t64MiB/);
    await good(['stack', 'rm', 'st'], /Removing service st_a/, /Removing network st_default/);
    assert.equal((await good(['network', 'ls'])).includes('st_default'), false);
  });

  test('remove, leave, and a worker', async () => {
    await good(['service', 'rm', 'web', 'glob', 'p'], /web\nglob\np/);
    await good(['network', 'rm', 'net1'], /net1/);
    await good(['node', 'rm', '-f', 'worker1'], /worker1/);
    await bad(['swarm', 'leave'], /Removing the last manager erases all current state of the swarm/);
    await good(['swarm', 'leave', '--force'], /Node left the swarm/);
    await good(['swarm', 'join', '--token', TOKEN, '10.0.0.1:2377'], /This node joined a swarm as a worker/);
    await bad(['service', 'ls'], /Worker nodes can't be used to view or modify cluster state/);
    await bad(['network', 'create', '-d', 'overlay', 'x'], /Worker nodes can't be used/);
    await good(['info'], /Swarm: active/, /Is Manager: false/);
    await good(['swarm', 'leave'], /Node left the swarm/);
  });
}
