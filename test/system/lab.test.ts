// The lab itself: several side by side, what its commands print and return, and that nothing is left behind, also
// after SIGKILL of the command half way.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { after, describe, test } from 'node:test';
import { CLIS, ROOT, SKEIN, command, eventually, sleep, type Output } from './fixture.js';

const LABS = ['tsfault5', 'tsfault6'];

function skein(...args: string[]): Promise<Output> {
  return command(process.execPath, [SKEIN, ...args], { timeoutMs: 90_000 });
}

function list(directory: string): string[] {
  return existsSync(directory) ? readdirSync(directory) : [];
}

/** Everything of this machine that has one of the names in it. */
async function traces(...names: string[]): Promise<string[]> {
  const found: string[] = [];
  const add = (what: string, lines: readonly string[]): void => {
    for (const line of lines) if (names.some((name) => line.includes(name))) found.push(`${what}: ${line}`);
  };
  add('netns', list('/run/netns'));
  add('mount', readFileSync('/proc/self/mounts', 'utf8').split('\n'));
  add('file', ['/run/skein-lab', '/var/lib/skein-lab'].flatMap((directory) => list(directory).map((file) => `${directory}/${file}`)));
  for (const pid of list('/proc').filter((file) => /^\d+$/.test(file) && Number(file) !== process.pid)) {
    try {
      const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
      if (!line.includes('--test')) add('process', [`${pid} ${line}`]);
    } catch {
      // It ended meanwhile.
    }
  }
  add('cgroup', (await command('find', ['/sys/fs/cgroup', '-type', 'd', '-path', '*skein*'])).stdout.split('\n'));
  add('runtime', list('/run/skein-oci'));
  add('nft', (await command('nft', ['list', 'ruleset'])).stdout.split('\n'));
  add('link', (await command('ip', ['-o', 'link'])).stdout.split('\n'));
  return found;
}

/** What carries no lab's name, by task and by state directory; others work on this machine too. */
function runtimeDirectory(stateDir: string): string {
  return createHash('sha256').update(stateDir).digest('hex').slice(0, 16);
}

async function tasksOf(name: string): Promise<string[]> {
  const output = await skein('lab', 'exec', '--name', name, 'm1', '--', CLIS[0] ?? 'docker', 'service', 'ps', '-q', '--no-trunc', 'who');
  const ids = output.stdout.trim().split('\n');
  assert.ok(ids.length >= 2 && ids.every((id) => /^[0-9a-z]{25}$/.test(id)), output.stdout + output.stderr);
  return ids;
}

describe('the lab', { timeout: 240_000 }, () => {
  after(async () => {
    for (const name of LABS) await skein('lab', 'down', '--name', name);
  });

  test('two labs side by side serve the same port; ls and exec; nothing is left after down', { timeout: 120_000 }, async () => {
    for (const name of LABS) await skein('lab', 'down', '--name', name);
    assert.deepEqual(await traces(...LABS), []);
    const ups = await Promise.all(LABS.map((name) => skein('lab', 'up', '--name', name, '--workers', '1', '--json')));
    for (const up of ups) assert.equal(up.code, 0, up.stderr);
    const labs = ups.map((up) => JSON.parse(up.stdout) as Record<string, unknown>[]);
    for (const [i, nodes] of labs.entries()) {
      const name = LABS[i] as string;
      const ls = await skein('lab', 'ls', '--name', name, '--json');
      assert.deepEqual(JSON.parse(ls.stdout), nodes);
      assert.deepEqual(nodes.map((node) => [node['name'], node['role']]), [['m1', 'manager'], ['w1', 'worker']]);
      for (const node of nodes) {
        assert.deepEqual(Object.keys(node).sort(), ['address', 'agentPid', 'datapathPid', 'name', 'netns', 'role', 'socket', 'stateDir']);
        assert.ok(existsSync(`/run/netns/${node['netns']}`) && existsSync(node['socket'] as string)
          && existsSync(node['stateDir'] as string));
        assert.match(readFileSync(`/proc/${node['agentPid']}/cmdline`, 'utf8'), /agent/);
        assert.match(readFileSync(`/proc/${node['datapathPid']}/comm`, 'utf8'), /skein-datapath/);
      }
      const created = await skein('lab', 'exec', '--name', name, 'm1', '--', CLIS[0] ?? 'docker', 'service', 'create', '-q', '--name',
        'who', '--replicas', '2',
        // By bind mounts: the pseudo image hides /root and /tmp, where this may have been cloned to.
        '--mount', `type=bind,src=${process.execPath},dst=/mnt/node,readonly`,
        '--mount', `type=bind,src=${path.join(ROOT, 'dist/src/lab/whoami.js')},dst=/mnt/whoami.mjs,readonly`,
        '-p', '8080:80', '-e', `TASK=${name}`, '-e', 'PORT=80', 'host', '/mnt/node', '/mnt/whoami.mjs');
      assert.equal(created.code, 0, created.stderr);
    }
    for (const name of LABS) {
      for (const address of ['192.168.99.11', '192.168.99.101']) {
        const answer = await skein('lab', 'exec', '--name', name, 'client', '--', 'curl', '-sS', '--max-time', '3',
          `http://${address}:8080/`);
        assert.equal((JSON.parse(answer.stdout) as { task: string }).task, name, answer.stdout + answer.stderr);
      }
    }
    const [name] = LABS as [string];
    const ids = (await Promise.all(LABS.map(tasksOf))).flat();
    const hashes = labs.flat().map((node) => runtimeDirectory(node['stateDir'] as string));
    assert.ok((await traces(...ids)).some((line) => line.startsWith('cgroup')) && (await traces(...hashes)).length > 0,
      'the search finds what runs');
    assert.equal((await skein('lab', 'exec', '--name', name, 'w1', '--', 'sh', '-c', 'exit 7')).code, 7);
    assert.equal((await skein('lab', 'exec', '--name', name, 'w1', '--', 'true')).code, 0);
    assert.notEqual((await skein('lab', 'exec', '--name', name, 'w1', '--', 'no-such-program')).code, 0);
    const unknown = await skein('lab', 'exec', '--name', name, 'w9', '--', 'true');
    assert.equal(unknown.code, 1);
    assert.match(unknown.stderr, /no node "w9" in lab "tsfault5" \(there is: m1, w1, client\)/);
    const twice = await skein('lab', 'up', '--name', name);
    assert.equal(twice.code, 1);
    assert.match(twice.stderr, /lab "tsfault5" is up: stop it first/);
    assert.equal((await skein('lab', 'down', '--name', name)).code, 0);
    assert.deepEqual(await traces(name), []);
    const other = await skein('lab', 'exec', '--name', LABS[1] as string, 'client', '--', 'curl', '-sS', '--max-time', '3',
      'http://192.168.99.101:8080/');
    assert.equal(other.code, 0, 'the other lab goes on');
    assert.equal((await skein('lab', 'down', '--name', LABS[1] as string)).code, 0);
    assert.deepEqual(await traces(...LABS, ...ids, ...hashes), []);
    const gone = await skein('lab', 'down', '--name', name);
    assert.equal(gone.code, 1);
    assert.match(gone.stderr, /no lab "tsfault5"/);
    assert.deepEqual(JSON.parse((await skein('lab', 'ls', '--name', name, '--json')).stdout), []);
  });

  test('lab up killed at any moment: the next down or up cleans up', { timeout: 120_000 }, async () => {
    const name = LABS[0] as string;
    for (const [i, ms] of [250, 500, 750, 1000, 1300, 1600].entries()) {
      const child = spawn(process.execPath, [SKEIN, 'lab', 'up', '--name', name, '--workers', '1'], { stdio: 'ignore' });
      await sleep(ms);
      child.kill('SIGKILL');
      await eventually('its end', 2000, async () => assert.notEqual(child.signalCode ?? child.exitCode, null));
      // Faster than the kill: the lab is up, not half made.
      if (child.exitCode === 0) assert.equal((await skein('lab', 'down', '--name', name)).code, 0);
      if (i % 2 === 0) {
        const down = await skein('lab', 'down', '--name', name);
        // Killed before it had planned anything: nothing to take down.
        assert.ok(down.code === 0 || /no lab/.test(down.stderr), down.stderr);
      } else {
        const up = await skein('lab', 'up', '--name', name, '--workers', '1');
        // Killed when all was done but its own end: the lab is up.
        assert.ok(up.code === 0 || /is up: stop it first/.test(up.stderr), up.stderr);
        assert.equal((await skein('lab', 'down', '--name', name)).code, 0);
      }
      assert.deepEqual(await traces(name), [], `killed after ${ms} ms`);
    }
  });

  test('everything of a running lab killed: down still takes all of it away', { timeout: 60_000 }, async () => {
    const name = LABS[0] as string;
    const up = await skein('lab', 'up', '--name', name, '--workers', '1', '--json');
    const nodes = JSON.parse(up.stdout) as { agentPid: number; datapathPid: number; stateDir: string }[];
    const created = await skein('lab', 'exec', '--name', name, 'm1', '--', CLIS[0] ?? 'docker', 'service', 'create', '-q', '--name', 'who',
      '--replicas', '2', '-p', '8080:80', 'host', 'sleep', '1000');
    assert.equal(created.code, 0, created.stderr);
    const ids = await tasksOf(name);
    for (const { agentPid, datapathPid } of nodes) {
      process.kill(agentPid, 'SIGKILL');
      process.kill(datapathPid, 'SIGKILL');
    }
    const down = await skein('lab', 'down', '--name', name);
    assert.equal(down.code, 0, down.stderr);
    assert.deepEqual(await traces(name, ...ids, ...nodes.map((node) => runtimeDirectory(node.stateDir))), []);
  });
});
