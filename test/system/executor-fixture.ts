// What the executor tests share: a busybox image as `docker import` and `docker save` tars, tasks, a network
// namespace, and clean-up of everything made, also after a failure.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import tarStream from 'tar-stream';
import { type ContainerSpec, type ContainerSpecSchema, type Task, TaskSchema } from '../../src/model/proto/swarmkit_pb.js';
import type { Controller, Executor, LogOptions, LogRecord, TaskEnvironment } from '../../src/platform/executor.js';

export interface TarEntry {
  readonly name: string;
  readonly data?: string | Buffer;
  readonly type?: 'file' | 'directory' | 'symlink' | 'link';
  readonly linkname?: string;
  readonly mode?: number;
  readonly pax?: Readonly<Record<string, string>>;
}

export async function tar(entries: readonly TarEntry[]): Promise<Buffer> {
  const pack = tarStream.pack();
  for (const { data, ...header } of entries) {
    const type = header.type ?? 'file';
    pack.entry({ mode: type === 'directory' ? 0o755 : 0o644, ...header, type }, type === 'file' ? Buffer.from(data ?? '') : Buffer.alloc(0));
  }
  pack.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of pack) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

const applets = 'sh cat echo id ls sleep head dd seq hostname tail stat touch env printf test mount grep wc yes true false kill trap nc rm mkdir tr date'.split(' ');

export function busyboxEntries(): TarEntry[] {
  return [
    { name: 'bin/', type: 'directory' },
    { name: 'bin/busybox', data: readFileSync('/bin/busybox'), mode: 0o755 },
    ...applets.map((name): TarEntry => ({ name: `bin/${name}`, type: 'symlink', linkname: 'busybox' })),
    { name: 'etc/', type: 'directory' },
    { name: 'etc/passwd', data: 'root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/sh\n' },
    { name: 'etc/group', data: 'root:x:0:\nwww:x:34:\nextra:x:50:www\n' },
    { name: 'root/', type: 'directory' },
    { name: 'tmp/', type: 'directory', mode: 0o1777 },
    { name: 'data/', type: 'directory' },
    { name: 'data/seed', data: 'seeded\n' },
  ];
}

export const digestOf = (bytes: Buffer | string): string => createHash('sha256').update(bytes).digest('hex');

/** A `docker save` archive with one layer per given tar. */
export async function dockerArchive(name: string, layers: readonly Buffer[], config: Record<string, unknown>): Promise<Buffer> {
  const file = Buffer.from(JSON.stringify({
    architecture: process.arch === 'x64' ? 'amd64' : process.arch, os: 'linux', created: '2026-01-02T03:04:05Z', config,
    rootfs: { type: 'layers', diff_ids: layers.map((layer) => `sha256:${digestOf(layer)}`) },
    history: layers.map(() => ({ created: '2026-01-02T03:04:05Z' })),
  }));
  const configName = `${digestOf(file)}.json`;
  const layerNames = layers.map((layer) => `${digestOf(layer)}/layer.tar`);
  return tar([
    ...layers.map((data, index) => ({ name: layerNames[index] ?? '', data })),
    { name: configName, data: file },
    { name: 'manifest.json', data: JSON.stringify([{ Config: configName, RepoTags: [name], Layers: layerNames }]) },
  ]);
}

export async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

export async function importBusybox(executor: Executor): Promise<string> {
  return executor.images.importTar(once(await tar(busyboxEntries())), {
    reference: 'skein-test-busybox', changes: ['CMD ["/bin/sh"]', 'ENV FROM_IMAGE=yes'], message: 'test',
  });
}

let counter = 0;
export function newTaskId(): string {
  return `t${process.pid.toString(36)}x${(counter++).toString(36)}x${Math.random().toString(36).slice(2, 10)}`;
}

export type SpecInit = Exclude<MessageInitShape<typeof ContainerSpecSchema>, ContainerSpec>;

export function makeTask(spec: SpecInit, more: MessageInitShape<typeof TaskSchema> = {}, limits?: { memoryBytes?: bigint; nanoCpus?: bigint }): Task {
  return create(TaskSchema, {
    id: newTaskId(),
    ...more,
    spec: {
      runtime: { case: 'container', value: { image: 'skein-test-busybox', ...spec } as SpecInit & { $typeName?: never } },
      ...(limits === undefined ? {} : { resources: { limits } }),
    },
  } as MessageInitShape<typeof TaskSchema>);
}

export const shell = (script: string): SpecInit => ({ command: ['/bin/sh', '-c', script] });

export function makeEnvironment(netns: string, task: Task, over: Partial<TaskEnvironment> = {}): TaskEnvironment {
  return {
    netns, name: `svc.1.${task.id}`, hostname: 'testhost', env: ['GIVEN=one two'],
    dns: { nameservers: ['127.0.0.11'], search: ['example.test'], options: ['ndots:0'] },
    hosts: [{ address: '10.9.8.7', names: ['testhost', 'alias'] }],
    labels: { 'com.docker.swarm.task': '', 'com.docker.swarm.task.id': task.id },
    secrets: new Map(), configs: new Map(), ...over,
  };
}

export async function collect(controller: Controller, over: Partial<LogOptions> = {}): Promise<LogRecord[]> {
  const records: LogRecord[] = [];
  const options: LogOptions = { follow: false, stdout: true, stderr: true, tail: undefined, sinceNs: undefined, signal: new AbortController().signal, ...over };
  for await (const record of controller.logs(options)) records.push(record);
  return records;
}

export const textOf = (records: readonly LogRecord[]): string => records.map((record) => Buffer.from(record.data).toString('utf8')).join('');

export interface Scratch {
  readonly directory: string;
  readonly netns: string;
  readonly cleanup: () => void;
}

export function makeScratch(): Scratch {
  const directory = mkdtempSync('/var/tmp/skein-executor-');
  const name = `skt-${process.pid}-${Math.random().toString(36).slice(2, 8)}`;
  execFileSync('ip', ['netns', 'add', name]);
  execFileSync('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
  return {
    directory,
    netns: `/run/netns/${name}`,
    cleanup: () => {
      execFileSync('ip', ['netns', 'del', name]);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
