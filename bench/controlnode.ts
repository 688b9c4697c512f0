// A process of the control bench: one node or many, with real state directories, raft logs, TLS and sessions, of which
// only tasks and packets are made up (test/support/test-node.ts). Does what its parent sends, one request after another.

import { mkdir } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { create } from '@bufbuild/protobuf';
import { pino } from 'pino';
import { startApi } from '../src/api/server.js';
import { createNetwork } from '../src/core/control/networks.js';
import { createService } from '../src/core/control/services.js';
import { createAction, updateAction } from '../src/core/store/actions.js';
import { acknowledged } from '../src/core/store/soft.js';
import type { Manager } from '../src/daemon/manager/manager.js';
import { makeId } from '../src/daemon/manager/newids.js';
import { unwrap } from '../src/lib/result.js';
import { timestampFromMs } from '../src/lib/time.js';
import { CommandSchema } from '../src/model/proto/skein_pb.js';
import {
  AnnotationsSchema, ConfigSchema, ConfigSpecSchema, NodeStatus_State, PairSchema, ReplicatedServiceSchema,
  ServiceSchema, TaskState, type StoreAction,
} from '../src/model/proto/swarmkit_pb.js';
import { network, spec } from '../test/support/control.js';
import { TestNode } from '../test/support/test-node.js';

export type Request =
  | { readonly op: 'init' | 'start'; readonly address: string }
  | { readonly op: 'join'; readonly addresses: readonly string[]; readonly manager: string; readonly token: string }
  | { readonly op: 'tokens' | 'leading' | 'prepare' | 'startWriting' | 'stopWriting' | 'ready' | 'api' }
  | { readonly op: 'load'; readonly inFlight: number; readonly ms: number }
  | { readonly op: 'endpoints'; readonly samples: number; readonly replicas: number; readonly nodes: number };

const OBJECTS = 512;
const VALUE_BYTES = 256;
const WAIT_MS = 60_000;
/** Not counted: caches, compilers. */
const WARM_SAMPLES = 10;
/** Nodes that join at a time. */
const JOINING = 8;
const nodes: TestNode[] = [];
const one = (): TestNode => nodes[0] as TestNode;
const manager = (): Manager => one().node.manager() as unknown as Manager;

async function make(address: string): Promise<TestNode> {
  const stateDir = path.join(os.tmpdir(), address.replace(':', '-'));
  await mkdir(stateDir, { recursive: true });
  const node = TestNode.at(stateDir, address);
  nodes.push(node);
  return node;
}

async function until(done: () => boolean, pauseMs: number): Promise<void> {
  const deadline = performance.now() + WAIT_MS;
  while (!done()) {
    if (performance.now() > deadline) throw new Error(`not done within ${WAIT_MS} ms: ${String(done)}`);
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

async function propose(actions: StoreAction[]): Promise<boolean> {
  const command = create(CommandSchema, { id: makeId(), time: timestampFromMs(Date.now()), actions });
  return (await manager().consensus.propose(command)).ok;
}

/** The objects that are written: as large as etcd's values, found by name after a change of the leader. */
async function prepare(): Promise<void> {
  if (manager().view().list('config').length >= OBJECTS) return;
  await propose(Array.from({ length: OBJECTS }, (_, i) => createAction('config', create(ConfigSchema, {
    id: `bench${i}`, spec: create(ConfigSpecSchema, { annotations: create(AnnotationsSchema, { name: `bench${i}` }) }),
  }))));
}

async function writeOne(i: number, value: string): Promise<boolean> {
  const stored = manager().view().get('config', `bench${i}`);
  const annotations = create(AnnotationsSchema, { name: `bench${i}`, labels: [create(PairSchema, { key: 'v', value })] });
  return stored !== undefined && propose([updateAction('config', create(ConfigSchema, {
    id: stored.id, ...(stored.meta === undefined ? {} : { meta: stored.meta }), spec: create(ConfigSpecSchema, { annotations }),
  }))]);
}

async function load(inFlight: number, ms: number): Promise<{ writes: number; errors: number; seconds: number; p50Us: number }> {
  const latencies: number[] = [];
  let errors = 0;
  const value = 'x'.repeat(VALUE_BYTES);
  const from = performance.now();
  await Promise.all(Array.from({ length: inFlight }, async (_, i) => {
    for (let now = performance.now(); now < from + ms; now = performance.now()) {
      if (await writeOne(i, value)) latencies.push(performance.now() - now);
      else errors += 1;
    }
  }));
  const seconds = (performance.now() - from) / 1000;
  latencies.sort((a, b) => a - b);
  return { writes: latencies.length, errors, seconds, p50Us: 1000 * (latencies[latencies.length >> 1] ?? 0) };
}

let writing: { readonly times: number[]; stop: boolean; readonly done: Promise<void> } | undefined;

/** One write after another, each told with when it was done, on the clock that all processes share. */
function startWriting(): void {
  const state = { times: [] as number[], stop: false, done: Promise.resolve() };
  const value = 'x'.repeat(VALUE_BYTES);
  const slot = OBJECTS - 1 - nodes.length - Math.floor(Math.random() * 100);
  state.done = (async () => {
    while (!state.stop) {
      if (await writeOne(slot, value)) state.times.push(performance.timeOrigin + performance.now());
      else await new Promise((resolve) => setTimeout(resolve, 5));
    }
  })();
  writing = state;
}

async function stopWriting(): Promise<readonly number[]> {
  if (writing === undefined) return [];
  writing.stop = true;
  await writing.done;
  return writing.times;
}

const running = (): number => manager().view().list('task')
  .filter((task) => task.status?.state === TaskState.RUNNING && task.drainState === undefined).length;

async function scale(replicas: number): Promise<void> {
  unwrap(await manager().commit((view) => {
    const service = view.list('service').find((each) => each.spec?.annotations?.name === 'endpoints');
    if (service?.spec === undefined) throw new Error('no service');
    const mode = { case: 'replicated' as const, value: create(ReplicatedServiceSchema, { replicas: BigInt(replicas) }) };
    const next = create(ServiceSchema, { ...service, spec: { ...service.spec, mode } });
    return { ok: true, value: { actions: [updateAction('service', next)], value: undefined } };
  }));
}

/** From a request that takes an endpoint away to when every node has acknowledged that it is out of its tables, in ms. */
async function endpoints(samples: number, replicas: number, nodeCount: number): Promise<{ ms: number[]; nodes: number }> {
  await makeService(replicas);
  await until(() => readyNodes() === nodeCount && running() === replicas, 20);
  const ms: number[] = [];
  for (let i = 0; i < samples + WARM_SAMPLES; i++) {
    const from = performance.now();
    const gone = drained();
    await scale(replicas - 1);
    await gone;
    if (i >= WARM_SAMPLES) ms.push(performance.now() - from);
    await scale(replicas);
    await until(() => running() === replicas, 5);
  }
  return { ms, nodes: readyNodes() };
}

const readyNodes = (): number => manager().view().list('node').filter((node) => node.status?.state === NodeStatus_State.READY).length;

async function makeService(replicas: number): Promise<void> {
  if (manager().view().list('service').some((each) => each.spec?.annotations?.name === 'endpoints')) return;
  const id = unwrap(await manager().commit((view, context) => createNetwork(view, network('endpoints'), context)));
  const task = { ContainerSpec: { Image: 'app:1' }, Networks: [{ Target: id }] };
  const made = spec('endpoints', { Mode: { Replicated: { Replicas: replicas } }, TaskTemplate: task });
  unwrap(await manager().commit((view, context) => createService(view, made, context)));
}

/** Resolves when the last acknowledgement of the next drain comes in, in the moment it does. */
function drained(): Promise<void> {
  const leader = manager();
  let revision = 0n;
  const stop = leader.onEvents((events) => {
    for (const event of events) if (event.kind === 'task') revision = event.object.drainState?.revision ?? revision;
  });
  return new Promise((resolve) => {
    const acknowledge = leader.acknowledge.bind(leader);
    leader.acknowledge = (nodeId, acked) => {
      acknowledge(nodeId, acked);
      if (revision === 0n || !acknowledged(leader.soft(), revision)) return;
      leader.acknowledge = acknowledge;
      stop();
      resolve();
    };
  });
}

let api: Promise<string> | undefined;

/** The Docker API of this node; where. */
async function startOwnApi(): Promise<string> {
  const socketPath = path.join(one().stateDir, 'docker.sock');
  await startApi({ socketPath, backend: one().node, logger: pino({ level: 'silent' }) });
  return socketPath;
}

async function handle(request: Request): Promise<unknown> {
  switch (request.op) {
    case 'init': return unwrap(await (await make(request.address)).init({ advertiseAddr: request.address }));
    case 'start': return (await make(request.address)).node.start();
    case 'join': {
      const from = { address: request.manager } as TestNode;
      const left = [...request.addresses];
      await Promise.all(Array.from({ length: JOINING }, async () => {
        for (let next = left.shift(); next !== undefined; next = left.shift()) {
          unwrap(await (await make(next)).join(from, { joinToken: request.token }));
        }
      }));
      return undefined;
    }
    case 'tokens': return manager().view().cluster()?.rootCa?.joinTokens;
    case 'ready': return readyNodes();
    case 'leading': return manager()?.consensus.leading === true && manager().term() !== undefined;
    case 'prepare': return prepare();
    case 'load': return load(request.inFlight, request.ms);
    case 'startWriting': return startWriting();
    case 'stopWriting': return stopWriting();
    case 'api': return api ??= startOwnApi();
    case 'endpoints': return endpoints(request.samples, request.replicas, request.nodes);
  }
}

process.on('message', (request: Request) => {
  void handle(request).then((value) => ({ value }), (error: unknown) => ({ error: String((error as Error).stack) }))
    .then((answer) => process.send?.(answer));
});
// The parent is gone: nothing of this is worth anything.
process.on('disconnect', () => process.exit(1));
process.on('SIGTERM', () => {
  void Promise.all(nodes.map((node) => node.node.close())).then(() => process.exit(0));
});
