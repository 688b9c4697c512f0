// Keys and certificates of a swarm as its operator handles them, with the real docker CLIs: the root rotates, managers are
// locked and unlocked, agents are killed on the way. The service goes on serving through all of it.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { startAgent } from '../../src/lab/lab.js';
import type { LabNode } from '../../src/lab/plan.js';
import { opensslRoot } from '../support/roots.js';
import { CLIS, IMAGE, Lab, Load, command, eventually, pidsOf, type Output } from './fixture.js';

const LOCKED = /Swarm is encrypted and needs to be unlocked before it can be used\. Please use "docker swarm unlock" to unlock it\./;

describe('keys and certificates', { timeout: 170_000 }, () => {
  let lab: Lab;
  let load: Load;
  let pids: Record<string, number>;
  const [newest = 'docker', oldest = newest] = CLIS;

  before(async () => {
    lab = await Lab.up('tskeys');
    await lab.docker('service', 'create', '-q', '--name', 'web', '--mode', 'global', '-p', '8080:80', IMAGE, '/bin/probe', 'serve', '80');
    pids = pidsOf(await lab.running('web', 3));
    load = new Load(lab, lab.plan.clientNetns, lab.plan.nodes.map(({ address }) => address), 8080);
  });
  after(async () => lab?.down());

  const by = (cli: string, args: readonly string[], input?: string, node: LabNode = lab.manager): Promise<Output> =>
    command(cli, ['-H', `unix://${node.socket}`, ...args], { timeoutMs: 60_000, ...(input === undefined ? {} : { input }) });
  const refused = async (args: readonly string[], message: RegExp, input?: string): Promise<void> => {
    for (const cli of CLIS) {
      const { code, stdout, stderr } = await by(cli, args, input);
      assert.notEqual(code, 0, `${cli} ${args.join(' ')}: ${stdout}`);
      assert.match(stderr, message);
    }
  };
  const info = async (format: string, node = lab.manager): Promise<string> =>
    (await by(newest, ['info', '--format', format], undefined, node)).stdout.trim();
  const rootOn = (node: LabNode): string => readFileSync(path.join(node.stateDir, 'swarm/certificates/swarm-root-ca.crt'), 'utf8').trim();
  /** Every node trusts this root and has a certificate of it, as the CLI shows and as it lies on the disk. */
  const everywhere = async (root: string): Promise<void> => {
    assert.equal(await lab.docker('swarm', 'ca'), root);
    for (const node of lab.plan.nodes) assert.equal(rootOn(node), root, node.name);
    assert.equal(await lab.docker('node', 'ls', '--format', '{{.Status}} {{.TLSStatus}}'), 'Ready Ready\n'.repeat(3).trim());
    assert.equal(await info('{{.Swarm.Cluster.RootRotationInProgress}}'), 'false');
  };
  const undisturbed = async (): Promise<void> => {
    assert.deepEqual(load.errors, []);
    assert.deepEqual(pidsOf(await lab.running('web', 3)), pids);
  };
  const restart = async (node: LabNode): Promise<void> => {
    await lab.killAgent(node);
    await startAgent(lab.plan, node);
  };

  test('swarm ca --rotate shows its progress and ends with a root that every node has', async () => {
    const first = await lab.docker('swarm', 'ca');
    assert.match(first, /^-----BEGIN CERTIFICATE-----\n/);
    await everywhere(first);
    const token = await lab.docker('swarm', 'join-token', '-q', 'worker');
    const { code, stdout, stderr } = await by(newest, ['swarm', 'ca', '--rotate']);
    assert.equal(code, 0, stderr);
    // Without a terminal the bars are not drawn; what is counted is what everywhere() looks at.
    const digests = [...stdout.matchAll(/desired root digest: sha256:([0-9a-f]{64})/g)].map(([, digest]) => digest);
    const second = await lab.docker('swarm', 'ca');
    assert.notEqual(second, first);
    assert.ok(stdout.trim().endsWith(second), 'the new root is printed at the end');
    const digestOf = (pem: string): string => createHash('sha256').update(`${pem}\n`).digest('hex');
    assert.deepEqual([digests[0], digests.at(-1)], [digestOf(first), digestOf(second)], 'the old root until the end');
    await everywhere(second);
    assert.notEqual(await lab.docker('swarm', 'join-token', '-q', 'worker'), token);
    await undisturbed();
  });

  test('a given root is taken with the older CLI too; what is no good is refused in Docker\'s words', async () => {
    const given = opensslRoot();
    const file = async (name: string, text: string): Promise<string> => {
      await writeFile(path.join(lab.work, name), text);
      return path.join(lab.work, name);
    };
    const cert = await file('root.pem', given.certificate);
    const key = await file('root.key', given.key);
    const rotate = ['swarm', 'ca', '--rotate'];
    await refused([...rotate, '--ca-cert', cert, '--ca-key', await file('other.key', opensslRoot().key)],
      /rpc error: code = InvalidArgument desc = certificate key mismatch/);
    const short = opensslRoot({ days: 30 });
    await refused([...rotate, '--ca-cert', await file('short.pem', short.certificate), '--ca-key', await file('short.key', short.key)],
      /CA certificate expires too soon/);
    await refused([...rotate, '--cert-expiry', '10m'], /minimum certificate expiry time is: 1h0m0s/);
    await refused([...rotate, '--ca-cert', cert, '--external-ca', 'protocol=cfssl,url=https://ca.example'],
      /external certificate authorities are not supported/);
    const { code, stdout, stderr } = await by(oldest, [...rotate, '--ca-cert', cert, '--ca-key', key, '--cert-expiry', '48h', '-q']);
    assert.equal(code, 0, stderr);
    assert.equal(stdout.trim(), '');
    await everywhere(given.certificate.trim());
    assert.equal(await info('{{.Swarm.Cluster.Spec.CAConfig.NodeCertExpiry}}'), '48h0m0s');
    await undisturbed();
  });

  test('a rotation waits for a node whose agent was killed, also over a kill of the manager\'s agent', async () => {
    const before = await lab.docker('swarm', 'ca');
    const [worker] = lab.workers as [LabNode];
    await lab.killAgent(worker);
    await lab.docker('swarm', 'ca', '--rotate', '-d');
    await restart(lab.manager);
    assert.equal(await info('{{.Swarm.Cluster.RootRotationInProgress}}'), 'true');
    assert.equal(await lab.docker('swarm', 'ca'), before, 'nothing is trusted before every node has followed');
    await startAgent(lab.plan, worker);
    const rotated = await eventually('the rotation', 30_000, async () => {
      assert.equal(await info('{{.Swarm.Cluster.RootRotationInProgress}}'), 'false');
      const root = await lab.docker('swarm', 'ca');
      for (const node of lab.plan.nodes) assert.equal(rootOn(node), root);
      return root;
    });
    assert.notEqual(rotated, before);
    await eventually('all nodes', 10_000, () => everywhere(rotated));
    await undisturbed();
  });

  test('a secret is on no disk: not on the worker that has it, not on another, not on the manager', async () => {
    const marker = `marker-${randomBytes(12).toString('hex')}`;
    const made = await by(newest, ['secret', 'create', 'marked', '-'], marker);
    assert.equal(made.code, 0, made.stderr);
    const [worker] = lab.workers as [LabNode];
    const shell = 'cat /run/secrets/marked; sleep 600';
    await lab.docker('service', 'create', '-q', '--name', 'keeper', '--secret', 'marked', '--constraint', `node.hostname==${worker.name}`,
      '--log-driver', 'none', IMAGE, 'sh', '-c', shell);
    const [task] = await lab.running('keeper', 1);
    const pid = task?.Status.ContainerStatus?.PID ?? 0;
    assert.equal(readFileSync(`/proc/${pid}/root/run/secrets/marked`, 'utf8'), marker, 'the task has it');
    assert.match(readFileSync(`/proc/${pid}/mountinfo`, 'utf8'), /^.* \/run\/secrets\/marked .* - tmpfs .*$/m);
    for (const node of lab.plan.nodes) {
      // Only what is on the disk: -xdev leaves out the tmpfs below it.
      const has = ['-type', 'f', '-exec', 'grep', '-l', '-a', marker, '{}', '+'];
      const found = await command('find', [node.stateDir, node.runDir, '-xdev', ...has]);
      assert.equal(found.stdout, '', node.name);
    }
    await lab.docker('service', 'rm', 'keeper');
  });

  test('a locked manager waits for its key after a kill, while its own node serves too', async () => {
    const on = await lab.docker('swarm', 'update', '--autolock=true');
    const key = /SWMKEY-1-[A-Za-z0-9+/]{43}/.exec(on)?.[0] ?? '';
    assert.match(on, /To unlock a swarm manager after it restarts, run the `docker swarm unlock`/);
    assert.equal(await lab.docker('swarm', 'unlock-key', '-q'), key);
    assert.match(await lab.docker('info'), /Autolock Managers: true/);
    await refused(['swarm', 'unlock'], /Error: swarm is not locked/, 'SWMKEY-1-x\n');
    await restart(lab.manager);
    assert.equal(await info('{{.Swarm.LocalNodeState}}|{{.Swarm.NodeID}}|{{.Swarm.ControlAvailable}}'), 'locked||false');
    assert.match((await by(oldest, ['info'])).stdout, /Swarm: locked/);
    for (const args of [['node', 'ls'], ['service', 'ls'], ['swarm', 'ca'], ['swarm', 'unlock-key']]) await refused(args, LOCKED);
    await refused(['swarm', 'init'], /This node is already part of a swarm/);
    await refused(['swarm', 'leave'], /Swarm is encrypted and locked\. Please unlock it first or use `--force` to ignore this message\./);
    await refused(['swarm', 'unlock'], /invalid key string/, 'nonsense\n');
    await refused(['swarm', 'unlock'], /swarm could not be unlocked: invalid key provided/, `SWMKEY-1-${'A'.repeat(43)}\n`);
    const { code, stderr } = await by(oldest, ['swarm', 'unlock'], `${key}\n`);
    assert.equal(code, 0, stderr);
    assert.match(await lab.docker('node', 'ls'), /Leader/);
    await undisturbed();
  });

  test('the unlock key rotates; a swarm that is unlocked again asks for none', async () => {
    const old = await lab.docker('swarm', 'unlock-key', '-q');
    const { code, stdout, stderr } = await by(oldest, ['swarm', 'unlock-key', '--rotate']);
    assert.equal(code, 0, stderr);
    const key = /SWMKEY-1-\S+/.exec(stdout)?.[0] ?? '';
    assert.notEqual(key, old);
    await restart(lab.manager);
    await refused(['swarm', 'unlock'], /invalid key provided/, `${old}\n`);
    assert.equal((await by(newest, ['swarm', 'unlock'], `${key}\n`)).code, 0);
    await lab.docker('swarm', 'update', '--autolock=false');
    await refused(['swarm', 'unlock-key'], /no unlock key is set/);
    await refused(['swarm', 'unlock-key', '--rotate'], /cannot rotate because autolock is not turned on/);
    await restart(lab.manager);
    assert.equal(await info('{{.Swarm.LocalNodeState}}'), 'active');
    await undisturbed();
    assert.ok(load.requests > 100, `${load.requests} requests`);
    assert.equal(await load.end(), 0);
  });

  test('a locked manager\'s node serves on when its data plane is killed as well', async () => {
    const key = /SWMKEY-1-\S+/.exec(await lab.docker('swarm', 'update', '--autolock=true'))?.[0] ?? '';
    await restart(lab.manager);
    assert.equal(await info('{{.Swarm.LocalNodeState}}'), 'locked');
    process.kill(await lab.datapathPid(lab.manager), 'SIGKILL');
    await eventually('answers', 10_000, async () => {
      for (let i = 0; i < 6; i++) await lab.ask(lab.plan.clientNetns, lab.manager.address, 8080);
    });
    assert.equal((await by(newest, ['swarm', 'unlock'], `${key}\n`)).code, 0);
    assert.deepEqual(pidsOf(await lab.running('web', 3)), pids);
  });
});
