// The parts of the executors that touch nothing: Docker's rules for arguments, capabilities, users, signals,
// references, log lines, seccomp, and the log reader on files.

import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { readFrames } from '../../src/io/docker/logs.js';
import { wrapperScript } from '../../src/io/docker/wrapper.js';
import { mergeEnv } from '../../src/io/images/changes.js';
import { formatReference, parseReference } from '../../src/model/image-reference.js';
import { capabilitySet, defaultCapabilities } from '../../src/io/oci/capabilities.js';
import { scopedPath } from '../../src/io/oci/files.js';
import { watchHealth } from '../../src/io/oci/health.js';
import { parseTime, readLogFile } from '../../src/io/oci/logs.js';
import { isAlive, processStart, signalProcess } from '../../src/io/oci/processes.js';
import { seccompProfile } from '../../src/io/oci/seccomp.js';
import { parseSignal } from '../../src/io/oci/signals.js';
import { imageProcess, processArgs } from '../../src/io/oci/spec-process.js';
import { resolveUser } from '../../src/io/oci/user.js';
import type { LogOptions } from '../../src/platform/executor.js';
import { Readable } from 'node:stream';

describe('oci', () => {
  let directory: string;
  before(() => {
    directory = mkdtempSync(path.join(os.tmpdir(), 'skein-oci-'));
  });
  after(() => rmSync(directory, { recursive: true, force: true }));

  it('takes arguments as Docker does', () => {
    const image = imageProcess({ Entrypoint: ['/e'], Cmd: ['c1', 'c2'] });
    assert.deepEqual(processArgs(image, [], []), ['/e', 'c1', 'c2']);
    assert.deepEqual(processArgs(image, [], ['a']), ['/e', 'a']);
    assert.deepEqual(processArgs(image, ['/x'], []), ['/x']);
    assert.deepEqual(processArgs(image, ['/x'], ['a']), ['/x', 'a']);
    assert.throws(() => processArgs(imageProcess({}), [], []), /No command specified/);
  });

  it('merges environments', () => {
    assert.deepEqual(mergeEnv(['A=1', 'B=2'], ['B=3', 'C=4', 'A']), ['B=3', 'C=4']);
  });

  it('knows capabilities', () => {
    assert.equal(defaultCapabilities.length, 14);
    assert.deepEqual(capabilitySet(['net_admin'], ['ALL']), ['CAP_NET_ADMIN']);
    assert.equal(capabilitySet(['ALL'], ['SYS_ADMIN']).includes('CAP_SYS_ADMIN'), false);
    assert.throws(() => capabilitySet(['FLY'], []), /invalid capability: "FLY"/);
  });

  it('knows signals', () => {
    assert.deepEqual(['SIGTERM', 'quit', '9', 'RTMIN+3', 'SIGRTMAX-1'].map(parseSignal), [15, 3, 9, 37, 63]);
    for (const bad of ['', '0', '99', 'SIGNONE', 'RTMIN+40']) assert.throws(() => parseSignal(bad), /invalid signal/);
  });

  it('parses references', () => {
    const shown = (text: string): string | undefined => {
      const parsed = parseReference(text);
      return parsed === undefined ? undefined : formatReference(parsed);
    };
    assert.equal(shown('nginx'), 'nginx:latest');
    assert.equal(shown('docker.io/library/nginx:1'), 'nginx:1');
    assert.equal(shown('localhost:5000/a/b'), 'localhost:5000/a/b:latest');
    assert.equal(shown(`x@sha256:${'a'.repeat(64)}`), `x@sha256:${'a'.repeat(64)}`);
    for (const bad of ['', ':', 'a b', 'a:', 'x@sha256:1', '../x', '/x']) assert.equal(shown(bad), undefined, bad);
    fc.assert(fc.property(fc.string(), (text) => {
      const once = shown(text);
      assert.ok(once === undefined || shown(once) === once);
    }));
  });

  it('resolves users in the image, never outside', async () => {
    const root = path.join(directory, 'root');
    mkdirSync(path.join(root, 'etc'), { recursive: true });
    writeFileSync(path.join(root, 'real'), 'me:x:7:8::/h:/bin/sh\n');
    symlinkSync('/../../real', path.join(root, 'etc/passwd'));
    writeFileSync(path.join(root, 'etc/group'), 'g:x:9:me\nother:x:10:\n');
    assert.deepEqual(await resolveUser(root, 'me', []), { uid: 7, gid: 8, additionalGids: [9], home: '/h' });
    assert.deepEqual(await resolveUser(root, 'me:other', ['g']), { uid: 7, gid: 10, additionalGids: [9], home: '/h' });
    assert.deepEqual(await resolveUser(root, '1000', []), { uid: 1000, gid: 0, additionalGids: [], home: '/' });
    await assert.rejects(resolveUser(root, 'root', []), /unable to find user root: no matching entries in passwd file/);
    await assert.rejects(resolveUser(root, 'me:nope', []), /unable to find group nope: no matching entries in group file/);
    symlinkSync('loop', path.join(root, 'loop'));
    await assert.rejects(scopedPath(root, '/loop/x'), /too many levels/);
    assert.equal(await scopedPath(root, '../../etc/group'), path.join(root, 'etc/group'));
  });

  it('makes seccomp rules that differ by capability', () => {
    const names = (capabilities: string[]): string[] =>
      (seccompProfile(capabilities, 'x64')['syscalls'] as { names: string[]; action: string }[]).filter(({ action }) =>
        action === 'SCMP_ACT_ALLOW').flatMap((rule) => rule.names);
    const plain = names([...defaultCapabilities]);
    for (const forbidden of ['mount', 'bpf', 'kexec_load', 'add_key', 'keyctl', 'userfaultfd', 'setns', 'init_module',
      'io_uring_setup', 'clone3']) assert.ok(!plain.includes(forbidden), forbidden);
    for (const needed of ['execve', 'chroot', 'futex', 'openat2', 'arch_prctl', 'clone', 'epoll_pwait2',
      'statx']) assert.ok(plain.includes(needed), needed);
    assert.ok(names(['CAP_SYS_ADMIN']).includes('mount'));
  });

  const options = (over: Partial<LogOptions> = {}): LogOptions =>
    ({ follow: false, stdout: true, stderr: true, tail: undefined, sinceNs: undefined, signal: new AbortController().signal, ...over });
  const read = async (file: string, over: Partial<LogOptions> = {}, ended = (): boolean => true): Promise<string> => {
    let text = '';
    for await (const record of readLogFile(file, options(over), ended)) text += Buffer.from(record.data).toString();
    return text;
  };

  it('tails log files of any size exactly', async () => {
    const file = path.join(directory, 'tail');
    await fc.assert(fc.asyncProperty(
      fc.array(fc.record({ stderr: fc.boolean(), size: fc.integer({ min: 0, max: 9000 }) }), { maxLength: 60 }), fc.nat(70), fc.boolean(),
      async (lines, tail, stdoutOnly) => {
        const content = lines.map(({ stderr, size }, index) => ({ stderr, text: `${index}${'x'.repeat(size)}` }));
        writeFileSync(file, content.map(({ stderr, text }) =>
          `2026-01-02T03:04:05.000000001+00:00 ${stderr ? 'stderr' : 'stdout'} F ${text}\n`).join(''));
        const expected = content.filter(({ stderr }) => !stdoutOnly || !stderr).slice(tail === 0 ? Infinity
          : -tail).map(({ text }) => `${text}\n`).join('');
        assert.equal(await read(file, { tail, stderr: !stdoutOnly }), expected);
      },
    ), { numRuns: 60 });
  });

  it('reads parts, ignores garbage, follows over a replaced file', async () => {
    const file = path.join(directory, 'parts');
    const line = (text: string, tag = 'F'): string => `2026-01-02T03:04:05.1Z stdout ${tag} ${text}\n`;
    writeFileSync(file, `garbage\n\n${line('a', 'P')}${line('b')}${line('c', 'P')}`);
    assert.equal(await read(file), 'ab\nc');
    assert.equal(await read(file, { tail: 2 }), 'ab\nc');
    assert.equal(await read(file, { tail: 1 }), 'c');
    let over = false;
    const following = read(file, { follow: true }, () => over);
    await new Promise((resolve) => setTimeout(resolve, 150));
    appendFileSync(file, line('d'));
    writeFileSync(`${file}.new`, line('e'));
    renameSync(`${file}.new`, file);
    await new Promise((resolve) => setTimeout(resolve, 300));
    over = true;
    assert.equal(await following, 'ab\ncd\ne\n');
    assert.equal(parseTime('1970-01-01T00:00:01.5+00:00'), 1_500_000_000n);
    assert.equal(parseTime('nonsense'), undefined);
  });

  it('cuts frames of the Engine however they arrive', async () => {
    const frame = (stream: number, text: string): Buffer => {
      const header = Buffer.alloc(8);
      header[0] = stream;
      header.writeUInt32BE(Buffer.byteLength(text), 4);
      return Buffer.concat([header, Buffer.from(text)]);
    };
    const all = Buffer.concat([frame(1, '2026-01-02T03:04:05.1Z one\n'), frame(2, '2026-01-02T03:04:05.2Z two')]);
    for (const size of [1, 3, 8, 9, 1000]) {
      const chunks = Array.from({ length: Math.ceil(all.length / size) }, (_, index) => all.subarray(index * size, (index + 1) * size));
      const seen: string[] = [];
      for await (const record of readFrames(Readable.from(chunks),
        false)) seen.push(`${record.stream}:${Buffer.from(record.data).toString()}`);
      assert.deepEqual(seen, ['stdout:one\n', 'stderr:two']);
    }
    const huge = Buffer.alloc(8, 0xff);
    await assert.rejects(async () => { for await (const _ of readFrames(Readable.from([huge]), false)) assert.fail(); }, /too large/);
  });

  it('never mistakes a recycled pid', () => {
    const start = processStart(process.pid);
    assert.ok(start !== undefined);
    assert.ok(isAlive(process.pid, start));
    assert.equal(isAlive(process.pid, `${start}1`), false);
    assert.equal(signalProcess(process.pid, 'another', 9), false);
    assert.equal(processStart(0), undefined);
  });

  it('counts failed health checks only after the start period', async () => {
    const results = [false, false, true, false, true, false, false];
    const events: string[] = [];
    const health = { args: [], intervalMs: 1, timeoutMs: 1, startPeriodMs: 60_000, startIntervalMs: 1, retries: 2 };
    await watchHealth(health, Date.now(), false, {
      check: async () => results.shift() ?? assert.fail('checked after unhealthy'),
      onHealthy: () => events.push('healthy'),
      onUnhealthy: () => events.push('unhealthy'),
    }, new AbortController().signal);
    assert.deepEqual(events, ['healthy', 'unhealthy']);
  });

  it('refuses unsuitable paths in the wrapper', () => {
    assert.throws(() => wrapperScript('/a b', 'runc'), /unsuitable/);
    assert.match(wrapperScript('/run/x', '/usr/sbin/runc'), /exec "\$runc" "\$@"/);
  });
});
