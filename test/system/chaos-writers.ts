// Clients of the chaos tests: some write through one manager after the other, and one for each manager stays with it as
// long as it answers: a paused manager holds up all who come by, and hides what the others do. They try again as a real
// client would, and keep what was acknowledged. An outcome that was never told may or may not be there; everything else must be.

import { setTimeout as sleep } from 'node:timers/promises';
import { ApiError, api } from '../../src/lab/dockerapi.js';
import type { LabNode } from '../../src/lab/plan.js';
import { IMAGE } from './fixture.js';

const REQUEST_MS = 8000;
const RETRY_MS = 50;
const PAUSE_MS = 10;
const RESIDENT_PAUSE_MS = 250;

/** What may be stored under a name: a label, or nothing. */
export type Value = string | undefined;

interface Answer<T> {
  readonly value: T | undefined;
  /** Of a refusal: its status. */
  readonly status: number;
  readonly message: string;
  /** An attempt before it may have been carried out. */
  readonly maybe: boolean;
  readonly by: LabNode;
}

export class Writers {
  acknowledged = 0;
  /** Requests without an outcome: timeouts, broken connections, no leader. */
  failed = 0;
  longestGapMs = 0;
  longestGapAt = '';
  /** Refusals and reads that no history of acknowledged writes explains. */
  readonly findings: string[] = [];
  readonly reasons = new Map<string, number>();
  private lastMs = Date.now();
  private readonly sure = new Map<string, Value>();
  private readonly unsure = new Map<string, Set<Value>>();
  private readonly managers: readonly LabNode[];
  private stopped = false;
  private running: Promise<unknown> = Promise.resolve();

  constructor(managers: readonly LabNode[]) {
    this.managers = managers;
  }

  start(count: number): void {
    this.lastMs = Date.now();
    const clients = Array.from({ length: count }, (_, id) => this.client(id));
    this.running = Promise.all([...clients, ...this.managers.map((_, home) => this.resident(home))]);
    this.running.catch(() => { this.stopped = true; });
  }

  async end(): Promise<void> {
    this.stopped = true;
    await this.running;
  }

  summary(): string {
    return `${this.acknowledged} writes acknowledged, ${this.failed} requests without an outcome `
      + `${JSON.stringify(Object.fromEntries(this.reasons))}, ${this.staleReads} old reads; longest gap ${this.longestGapMs} ms at `
      + this.longestGapAt;
  }

  /** What is wrong with what a manager lists. */
  compare(found: ReadonlyMap<string, Value>): string[] {
    const problems: string[] = [];
    for (const [name, value] of this.sure) {
      const allowed = [value, ...(this.unsure.get(name) ?? [])];
      if (!allowed.includes(found.get(name))) problems.push(`${name} is ${found.get(name)}, acknowledged was ${value}`);
    }
    for (const name of found.keys()) if (!this.sure.has(name) && !this.unsure.has(name)) problems.push(`nobody asked for ${name}`);
    return problems;
  }

  private async client(id: number): Promise<void> {
    for (let i = 0; !this.stopped; i++) {
      await this.service(`s${id}x${i}`, id + i);
      if (i % 3 === 0) await this.config(`c${id}x${i}`, id + i, id + i + 1, (id + i) % 2 === 1);
      await sleep(PAUSE_MS);
    }
  }

  private async resident(home: number): Promise<void> {
    for (let i = 0; !this.stopped; i++) {
      await this.config(`r${home}x${i}`, home, home, true);
      await sleep(RESIDENT_PAUSE_MS);
    }
  }

  private async service(name: string, from: number): Promise<void> {
    const created = await this.send<{ ID: string }>(from, name, 'a', 'POST', '/v1.40/services/create', spec(name, 'a'));
    // 409: an earlier attempt had been carried out.
    if (!this.settled(name, 'a', created, 409)) return;
    for (const [step, label] of ['b', 'c'].entries()) if (!await this.update(name, label, from + step + 1)) return;
    // A creation whose answer was lost may come late: after a removal it would be there again.
    if (created.maybe || from % 2 === 0) return;
    this.settled(name, undefined, await this.send(from + 3, name, undefined, 'DELETE', `/v1.40/services/${name}`), 404);
  }

  private async update(name: string, label: string, from: number): Promise<boolean> {
    let maybe = false;
    while (!this.stopped) {
      const seen = await this.read(name, from);
      if (seen === undefined) return false;
      if (seen.label === label && maybe) return this.settle(name, label);
      const url = `/v1.40/services/${name}/update?version=${seen.version}`;
      const answer = await this.send(from + 1, name, label, 'POST', url, spec(name, label));
      maybe ||= answer.maybe;
      if (answer.status !== 500 || !answer.message.includes('out of sequence')) return this.settled(name, label, answer, 0);
      if (!maybe && !seen.old) {
        this.findings.push(`${name}: version ${seen.version} read from ${seen.by.name} was refused by ${answer.by.name}: ${answer.message}`);
      }
      await sleep(RETRY_MS);
    }
    return false;
  }

  /** A read after an acknowledged write; undefined when the writers stop. */
  private async read(name: string, from: number): Promise<{ label: Value; version: number; by: LabNode; old: boolean } | undefined> {
    for (let attempt = from; !this.stopped; attempt++) {
      const via = this.via(attempt);
      let old = false;
      try {
        const { Version, Spec } = await api<{ Version: { Index: number }; Spec: { Labels: { label?: string } } }>(via.socket, 'GET',
          `/v1.40/services/${name}`, undefined, REQUEST_MS, ({ warning }) => { old = warning !== undefined; });
        const label = Spec.Labels.label;
        const expected = [this.sure.get(name), ...(this.unsure.get(name) ?? [])];
        if (expected.includes(label)) return { label, version: Version.Index, by: via, old };
        this.stale(`${name} read as ${label} from ${via.name}, acknowledged was ${this.sure.get(name)}`, old);
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) {
          this.stale(`${name} not found by ${via.name}: ${error.message}`, old);
        } else this.failure(error);
      }
      await sleep(RETRY_MS);
    }
    return undefined;
  }

  staleReads = 0;

  /** One that no leader answers tells what it knows, and says so. */
  private stale(what: string, said: boolean): void {
    this.staleReads += 1;
    if (!said) this.findings.push(`${new Date().toISOString()} ${what}`);
  }

  private async config(name: string, from: number, then: number, removed: boolean): Promise<void> {
    const body = { Name: name, Labels: {}, Data: Buffer.from(name).toString('base64') };
    const created = await this.send<{ ID: string }>(from, name, '', 'POST', '/v1.40/configs/create', body);
    if (!this.settled(name, '', created, 409) || created.maybe || !removed) return;
    this.settled(name, undefined, await this.send(then, name, undefined, 'DELETE', `/v1.40/configs/${name}`), 404);
  }

  /** `done`: the refusal that says that an attempt before had been carried out. */
  private settled(name: string, value: Value, answer: Answer<unknown>, done: number): boolean {
    if (answer.status === 0) return answer.value !== undefined && this.settle(name, value);
    if (answer.maybe && answer.status === done) return this.settle(name, value);
    this.findings.push(`${name} -> ${value}: ${answer.by.name} answered ${answer.status} ${answer.message}`);
    return false;
  }

  private settle(name: string, value: Value): boolean {
    const nowMs = Date.now();
    if (nowMs - this.lastMs > this.longestGapMs) {
      this.longestGapMs = nowMs - this.lastMs;
      this.longestGapAt = new Date(this.lastMs).toISOString();
    }
    this.lastMs = nowMs;
    this.acknowledged += 1;
    this.sure.set(name, value);
    this.unsure.delete(name);
    return true;
  }

  private via(number: number): LabNode {
    return this.managers[number % this.managers.length] as LabNode;
  }

  /** Until somebody answers: by one manager after the other. */
  private async send<T>(from: number, name: string, value: Value, method: string, url: string, body?: unknown): Promise<Answer<T>> {
    let maybe = false;
    this.unsure.set(name, new Set([...(this.unsure.get(name) ?? []), value]));
    for (let attempt = from; ; attempt++) {
      const by = this.via(attempt);
      try {
        const answer = await api<T>(by.socket, method, url, body, REQUEST_MS);
        return { value: answer, status: 0, message: '', maybe, by };
      } catch (error) {
        if (error instanceof ApiError && error.status !== 503) return { value: undefined, status: error.status, message: error.message, maybe, by };
        maybe ||= this.failure(error);
        if (this.stopped) return { value: undefined, status: 0, message: '', maybe, by };
      }
      await sleep(RETRY_MS);
    }
  }

  /** True when what was asked for may have been done. */
  private failure(error: unknown): boolean {
    const message = error instanceof Error ? error.message : String(error);
    this.failed += 1;
    const short = message.replace(/(POST|GET|DELETE) \S+/, '$1').slice(0, 60);
    this.reasons.set(short, (this.reasons.get(short) ?? 0) + 1);
    return !/ECONNREFUSED|ENOENT|not a swarm manager/.test(message);
  }
}

function spec(name: string, label: string): object {
  return { Name: name, Labels: { label }, Mode: { Replicated: { Replicas: 0 } }, TaskTemplate: { ContainerSpec: { Image: IMAGE } } };
}
