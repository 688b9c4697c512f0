// The image store with real tars: docker save, OCI layout, compression, whiteouts, import changes, hostile archives.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import { LocalImageStore } from '../../src/io/images/store.js';
import { AppFailure } from '../../src/lib/result.js';
import { OciExecutor } from '../../src/io/oci/executor.js';
import { busyboxEntries, collect, digestOf, dockerArchive, makeEnvironment, makeScratch, makeTask, once, shell, tar, textOf } from './executor-fixture.js';

describe('image store', () => {
  let directory: string;
  let store: LocalImageStore;
  before(() => {
    directory = mkdtempSync('/var/tmp/skein-images-');
    store = new LocalImageStore(path.join(directory, 'images'));
  });
  after(() => rmSync(directory, { recursive: true, force: true }));

  const refused = (text: RegExp) => (error: unknown): boolean => {
    assert.ok(error instanceof AppFailure, String(error));
    assert.match(error.message, text);
    return true;
  };
  const layersPath = (): string => path.join(directory, 'images', 'layers');

  it('imports with changes', async () => {
    const id = await store.importTar(once(gzipSync(await tar(busyboxEntries()))), {
      reference: 'docker.io/library/imported', message: 'made',
      changes: ['CMD ["a","b c"]', 'ENTRYPOINT run me', 'ENV A=1 B="two words"', 'ENV OLD some value', 'EXPOSE 80 53/udp', 'USER www', 'WORKDIR /data', 'LABEL k=v', 'VOLUME /v'],
    });
    const image = await store.inspect('imported:latest');
    assert.equal(image?.id, id);
    assert.deepEqual(image.repoTags, ['imported:latest']);
    assert.deepEqual(image.config, {
      Cmd: ['a', 'b c'], Entrypoint: ['/bin/sh', '-c', 'run me'], Env: ['A=1', 'B=two words', 'OLD=some value'],
      ExposedPorts: { '80/tcp': {}, '53/udp': {} }, User: 'www', WorkingDir: '/data', Labels: { k: 'v' }, Volumes: { '/v': {} },
    });
    for (const name of ['imported', 'library/imported', 'docker.io/library/imported:latest', id, id.slice(7, 19)]) assert.equal((await store.inspect(name))?.id, id, name);
    assert.equal(await store.inspect('imported:other'), undefined);
    await assert.rejects(store.importTar(once(await tar([])), { reference: undefined, changes: ['RUN x'], message: '' }), refused(/RUN is not a valid change command/));
    assert.equal(await store.remove('imported'), true);
    assert.equal(await store.remove('imported'), false);
    assert.deepEqual(readdirSync(layersPath()), []);
  });

  it('loads docker save archives, plain, gzip and zstd, with whiteouts; the index survives', async () => {
    const layers = [
      await tar([{ name: 'a/', type: 'directory' }, { name: 'a/gone', data: 'x' }, { name: 'a/stays', data: 'y' }, { name: 'b/', type: 'directory', mode: 0o750 }, { name: 'b/old', data: 'z' }]),
      await tar([{ name: 'a/.wh.gone' }, { name: 'b/', type: 'directory', mode: 0o750 }, { name: 'b/.wh..wh..opq' }, { name: 'b/new', data: 'n' }, { name: 'b/hard', type: 'link', linkname: 'b/new' }]),
    ];
    const archive = await dockerArchive('example.com/app/web:1', layers, { Cmd: ['/x'] });
    assert.deepEqual(await store.load(once(archive)), ['example.com/app/web:1']);
    assert.deepEqual(await store.load(once(gzipSync(archive))), ['example.com/app/web:1']);
    assert.deepEqual(await store.load(once(execFileSync('zstd', ['-qc'], { input: archive, maxBuffer: 1 << 26 }))), ['example.com/app/web:1']);
    const again = new LocalImageStore(path.join(directory, 'images'));
    store = again;
    const image = await again.inspect('example.com/app/web:1');
    assert.ok(image);
    const root = await again.root(image.id);
    const top = path.join(root.layersDirectory, root.layers[0] ?? '');
    const whiteout = lstatSync(path.join(top, 'a/gone'));
    assert.ok(whiteout.isCharacterDevice());
    assert.equal(whiteout.rdev, 0);
    assert.equal(lstatSync(path.join(top, 'b')).mode & 0o7777, 0o750);
    assert.equal(lstatSync(path.join(top, 'b/new')).nlink, 2);
    assert.equal(existsSync(path.join(top, 'b/.wh..wh..opq')), false);
    const merged = path.join(directory, 'merged');
    for (const name of ['merged', 'upper', 'work']) execFileSync('mkdir', [path.join(directory, name)]);
    execFileSync('mount', ['-t', 'overlay', 'overlay', '-o', `lowerdir=${root.layers.join(':')},upperdir=${directory}/upper,workdir=${directory}/work`, merged], { cwd: root.layersDirectory });
    try {
      assert.deepEqual(readdirSync(path.join(merged, 'a')), ['stays']);
      assert.deepEqual(readdirSync(path.join(merged, 'b')).sort(), ['hard', 'new']);
    } finally {
      execFileSync('umount', [merged]);
    }
    assert.equal(await again.remove(image.id), true);
  });

  it('loads an OCI layout', async () => {
    const layer = await tar(busyboxEntries());
    const blob = gzipSync(layer);
    const config = Buffer.from(JSON.stringify({ os: 'linux', architecture: 'amd64', config: { Cmd: ['/bin/sh'] }, rootfs: { type: 'layers', diff_ids: [`sha256:${digestOf(layer)}`] } }));
    const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, config: { digest: `sha256:${digestOf(config)}` }, layers: [{ digest: `sha256:${digestOf(blob)}` }] }));
    const archive = await tar([
      { name: 'oci-layout', data: '{"imageLayoutVersion":"1.0.0"}' },
      ...[blob, config, manifest].map((data) => ({ name: `blobs/sha256/${digestOf(data)}`, data })),
      { name: 'index.json', data: JSON.stringify({ manifests: [{ digest: `sha256:${digestOf(manifest)}`, annotations: { 'io.containerd.image.name': 'docker.io/library/oci:2' } }] }) },
    ]);
    assert.deepEqual(await store.load(once(archive)), ['oci:2']);
    assert.equal((await store.inspect(`oci@sha256:${digestOf(manifest)}`))?.id, `sha256:${digestOf(config)}`);
  });

  it('refuses hostile and broken archives and leaves nothing', async () => {
    const marker = path.join(directory, 'escaped');
    const up = '../'.repeat(12) + marker.slice(1);
    const cases: [RegExp, Parameters<typeof tar>[0]][] = [
      [/breakout/, [{ name: up, data: 'x' }]],
      [/breakout/, [{ name: 'd', type: 'symlink', linkname: directory }, { name: 'd/escaped', data: 'x' }]],
      [/breakout/, [{ name: 'd', type: 'symlink', linkname: '../../../../..' }, { name: 'd/var/tmp/escaped', data: 'x' }]],
      [/breakout/, [{ name: 'd', type: 'symlink', linkname: directory }, { name: 'd/.wh.images' }]],
      [/breakout/, [{ name: 'sparse', data: 'x', pax: { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': up } }]],
      [/breakout/, [{ name: 'h', type: 'link', linkname: '../../../index.json' }]],
      [/tar|breakout/, [{ name: 'b', type: 'symlink', linkname: directory }, { name: 'a', type: 'symlink', linkname: 'b' }, { name: 'a/.wh.images' }]],
      [/tar|breakout/, [{ name: 'b', type: 'symlink', linkname: directory }, { name: 'a', type: 'symlink', linkname: 'b' }, { name: 'a/escaped', data: 'x' }]],
    ];
    for (const [text, entries] of cases) {
      await assert.rejects(store.importTar(once(await tar(entries)), { reference: 'bad', changes: [], message: '' }), refused(text), JSON.stringify(entries));
      assert.equal(existsSync(marker), false);
    }
    // An absolute name is taken as one inside the image, as Docker does.
    await store.importTar(once(await tar([{ name: marker, data: 'x' }])), { reference: 'absolute', changes: [], message: '' });
    assert.equal(existsSync(marker), false);
    await assert.rejects(store.load(once(Buffer.from('not a tar at all, but long enough to be looked at'.repeat(40)))), refused(/./));
    await assert.rejects(store.load(once(await tar([{ name: 'x', data: 'y' }]))), refused(/manifest\.json: no such file/));
    const layer = await tar([{ name: 'f', data: '1' }]);
    const wrong = (await dockerArchive('wrong:1', [layer], {})).toString('latin1').replaceAll(`sha256:${digestOf(layer)}`, `sha256:${'0'.repeat(64)}`);
    await assert.rejects(store.load(once(Buffer.from(wrong, 'latin1'))), refused(/invalid diffID/));
    assert.deepEqual(readdirSync(path.join(directory, 'images', 'tmp')), []);
    assert.equal((await store.list()).some(({ repoTags }) => repoTags.includes('bad:latest')), false);
    assert.ok(!readFileSync(path.join(directory, 'images', 'index.json'), 'utf8').includes('wrong'));
  });

  it('runs a loaded image of several layers, and refuses to remove it meanwhile', { timeout: 60_000 }, async () => {
    const scratch = makeScratch();
    const executor = new OciExecutor({ stateDir: path.join(scratch.directory, 'state') });
    try {
      const layers = [await tar(busyboxEntries()), await tar([{ name: 'data/.wh.seed' }, { name: 'data/top', data: 'top\n' }])];
      await executor.images.load(once(await dockerArchive('layered:1', layers, { Entrypoint: ['/bin/ls'], Cmd: ['/data'], Volumes: { '/data': {} } })));
      const task = makeTask({ image: 'layered:1' });
      const controller = executor.controller(task.id);
      await controller.prepare(task, makeEnvironment(scratch.netns, task));
      await controller.start();
      await controller.wait();
      assert.equal(textOf(await collect(controller)), 'top\n');
      await assert.rejects(executor.images.remove('layered:1'), refused(/conflict: unable to remove repository reference "layered:1" \(must force\) - container [0-9a-f]{12} is using/));
      const volumes = path.join(scratch.directory, 'state', 'volumes');
      assert.equal(readdirSync(volumes).length, 1);
      await controller.remove();
      assert.equal(readdirSync(volumes).length, 0);
      assert.equal(await executor.images.remove('layered:1'), true);
      const probe = await executor.probe();
      assert.ok(probe.runtime !== undefined && probe.findings.length > 0, probe.reason);
      // Half-made tasks are found and removed.
      const half = makeTask(shell('true'));
      execFileSync('mkdir', ['-p', path.join(scratch.directory, 'state', 'tasks', half.id, 'upper')]);
      assert.ok((await executor.adopt()).includes(half.id));
      await executor.controller(half.id).remove();
      assert.equal((await executor.adopt()).includes(half.id), false);
    } finally {
      for (const id of await executor.adopt()) await executor.controller(id).remove();
      await executor.close();
      scratch.cleanup();
    }
  });
});
