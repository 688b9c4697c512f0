// What the control bench measures, in which order: memory while nothing was done yet, writes, endpoint changes, ends of the
// leader, scheduling.

import type { ControlOptions, Group, Groups, LoadResult } from './control.js';
import { DOCKER, OURS, type Samples } from './controlreport.js';
import { scheduling } from './scheduling.js';

export interface Run {
  readonly options: ControlOptions;
  readonly samples: Samples;
  readonly signal: AbortSignal;
  readonly progress: (line: string) => void;
}

export interface Measurements {
  readonly memoryMiB: Readonly<Record<string, number>>;
  readonly nodes: Readonly<Record<string, number>>;
}

const IN_FLIGHT = [1, 64, 512] as const;
/** Until compilers and caches have seen what they will see. */
const WARM_MS = 2000;
const API_WARM_MS = 1000;
const API_WARM_IN_FLIGHT = 64;
const GAP_WATCH_MS = { SIGKILL: 5000, SIGTERM: 2500 } as const;
const ENDPOINT_SAMPLES = 40;
/** Docker's swarm has no more nodes. */
const DOCKER_NODES = 3;

export async function measure(groups: Groups, run: Run): Promise<Measurements> {
  const { skein, docker, all, proposers, apis } = groups;
  const { options, signal, progress } = run;
  for (const group of all) {
    signal.throwIfAborted();
    progress(`starting ${group.name}`);
    await group.start();
  }
  const memoryMiB: Record<string, number> = {};
  for (const group of all) {
    for (const [what, mib] of Object.entries(await group.memory())) memoryMiB[`${group.name}_${what}`] = Math.round(mib);
  }
  await docker?.dismiss();
  progress('warming up');
  for (const group of proposers) for (const inFlight of [...IN_FLIGHT].reverse()) await group.load(inFlight, WARM_MS);
  for (const group of apis) await group.apiLoad(API_WARM_IN_FLIGHT, API_WARM_MS);
  for (let round = 0; round < options.rounds; round++) {
    progress(`writes: round ${round + 1} of ${options.rounds}`);
    await writes(groups, round, run);
  }
  const nodes: Record<string, number> = {};
  for (const count of [...options.agents].sort((a, b) => a - b)) {
    signal.throwIfAborted();
    progress(`endpoint changes on ${count} nodes`);
    nodes[`endpoint_${count}`] = await endpoints(groups, count, run);
  }
  await skein.dismiss();
  await gaps(groups, run);
  // Last, for it takes the processor all to itself.
  progress('scheduling');
  for (const value of scheduling(options.rounds)) add(run, 'schedule', OURS, value);
  return { memoryMiB, nodes };
}

function add({ samples }: Run, metric: string, group: string, value: number): void {
  const of = samples.get(metric) ?? new Map<string, number[]>();
  samples.set(metric, of.set(group, [...of.get(group) ?? [], value]));
}

async function writes({ proposers, apis }: Groups, round: number, run: Run): Promise<void> {
  const { options: { sliceMs }, signal } = run;
  const take = (api: '' | 'api_', inFlight: number, of: string, result: LoadResult): void => {
    const { writes: count, errors, seconds, p50Us, cpuSeconds } = result;
    if (errors > 0 || count === 0) throw new Error(`${of}: ${errors} of ${count + errors} writes failed`);
    add(run, `${api}writes_${inFlight}`, of, count / seconds);
    add(run, `${api}p50_${inFlight}`, of, p50Us);
    add(run, `${api}cpu_${inFlight}`, of, cpuSeconds / count * 1e6);
  };
  for (const inFlight of IN_FLIGHT) {
    for (const group of turns(proposers, round)) {
      signal.throwIfAborted();
      take('', inFlight, group.name, await group.load(inFlight, sliceMs));
    }
  }
  for (const inFlight of IN_FLIGHT) {
    for (const group of turns(apis, round)) {
      signal.throwIfAborted();
      take('api_', inFlight, group.name, await group.apiLoad(inFlight, sliceMs));
    }
  }
}

/** On how many nodes they were. */
async function endpoints({ skein, docker }: Groups, count: number, run: Run): Promise<number> {
  const { options: { dockerRounds }, progress } = run;
  const changes = await skein.endpoints(count, ENDPOINT_SAMPLES);
  for (const ms of changes.ms) add(run, `endpoint_${count}`, OURS, ms);
  if (count !== DOCKER_NODES || docker === undefined || dockerRounds === 0) return changes.nodes;
  progress('docker: endpoint changes');
  for (const { goneMs, toldMs } of await docker.endpoints(dockerRounds)) {
    add(run, `endpoint_${count}`, DOCKER, goneMs);
    add(run, `told_${count}`, DOCKER, toldMs);
  }
  return changes.nodes;
}

async function gaps({ all, docker }: Groups, run: Run): Promise<void> {
  const { options, signal, progress } = run;
  const times = (group: Group): number => (group === docker ? options.dockerRounds : options.failovers);
  for (let round = 0; round < Math.max(...all.map(times)); round++) {
    for (const kind of ['SIGKILL', 'SIGTERM'] as const) {
      for (const group of turns(all.filter((each) => round < times(each)), round)) {
        signal.throwIfAborted();
        progress(`${group.name}: the leader gets a ${kind}`);
        add(run, kind === 'SIGKILL' ? 'gap_kill' : 'gap_handover', group.name, await group.gap(kind, GAP_WATCH_MS[kind]));
      }
    }
  }
}

/** Who goes first changes with every round. */
function turns<T>(groups: readonly T[], round: number): readonly T[] {
  return round % 2 === 0 ? groups : [...groups].reverse();
}
