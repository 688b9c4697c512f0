// Health checks: the command of the spec or the image, run inside the task at intervals by Docker's rules.

import type { ContainerSpec } from '../../model/proto/swarmkit_pb.js';

export interface HealthCheck {
  readonly args: readonly string[];
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly startPeriodMs: number;
  readonly startIntervalMs: number;
  readonly retries: number;
}

const defaultIntervalMs = 30_000;
const defaultTimeoutMs = 30_000;
const defaultStartIntervalMs = 5_000;
const defaultRetries = 3;

interface Fields {
  readonly test: readonly string[];
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly startPeriodMs: number;
  readonly startIntervalMs: number;
  readonly retries: number;
}

/** The spec's values win one by one over the image's; zero means not given. */
export function healthCheck(spec: ContainerSpec, imageConfig: Readonly<Record<string, unknown>>): HealthCheck | undefined {
  const own = specFields(spec);
  const image = imageFields(imageConfig['Healthcheck']);
  const test = own.test.length > 0 ? own.test : image.test;
  const args = command(test, imageConfig);
  if (args === undefined) return undefined;
  const pick = (name: Exclude<keyof Fields, 'test'>, fallback: number): number => own[name] || image[name] || fallback;
  return {
    args,
    intervalMs: pick('intervalMs', defaultIntervalMs),
    timeoutMs: pick('timeoutMs', defaultTimeoutMs),
    startPeriodMs: pick('startPeriodMs', 0),
    startIntervalMs: pick('startIntervalMs', defaultStartIntervalMs),
    retries: pick('retries', defaultRetries),
  };
}

function command(test: readonly string[], imageConfig: Readonly<Record<string, unknown>>): string[] | undefined {
  const [kind, ...rest] = test;
  if (kind === 'CMD' && rest.length > 0) return rest;
  if (kind === 'CMD-SHELL' && rest.length > 0) {
    const shell = imageConfig['Shell'];
    return [...(Array.isArray(shell) && shell.length > 0 ? shell.map(String) : ['/bin/sh', '-c']), rest[0] ?? ''];
  }
  return undefined;
}

interface DurationLike {
  readonly seconds: bigint;
  readonly nanos: number;
}

export const durationMs = (duration: DurationLike | undefined): number =>
  duration === undefined ? 0 : Number(duration.seconds) * 1000 + duration.nanos / 1e6;

function specFields(spec: ContainerSpec): Fields {
  const health = spec.healthcheck;
  return {
    test: health?.test ?? [],
    intervalMs: durationMs(health?.interval),
    timeoutMs: durationMs(health?.timeout),
    startPeriodMs: durationMs(health?.startPeriod),
    startIntervalMs: durationMs(health?.startInterval),
    retries: health?.retries ?? 0,
  };
}

function imageFields(value: unknown): Fields {
  const health = (value ?? {}) as Readonly<Record<string, unknown>>;
  const ms = (name: string): number => Number(health[name] ?? 0) / 1e6;
  return {
    test: Array.isArray(health['Test']) ? health['Test'].map(String) : [],
    intervalMs: ms('Interval'),
    timeoutMs: ms('Timeout'),
    startPeriodMs: ms('StartPeriod'),
    startIntervalMs: ms('StartInterval'),
    retries: Number(health['Retries'] ?? 0),
  };
}

export interface HealthEvents {
  /** Runs the check once: true when it passed. Must reject never but on bugs. */
  readonly check: (health: HealthCheck) => Promise<boolean>;
  readonly onHealthy: () => void;
  readonly onUnhealthy: () => void;
}

/** Runs until aborted or unhealthy. Failures inside the start period do not count until the first success. */
export async function watchHealth(health: HealthCheck, startedAtMs: number, wasHealthy: boolean, events: HealthEvents, signal: AbortSignal): Promise<void> {
  let failures = 0;
  let passed = wasHealthy;
  while (!signal.aborted) {
    const starting = !passed && Date.now() - startedAtMs < health.startPeriodMs;
    await sleep(starting ? Math.min(health.startIntervalMs, health.intervalMs) : health.intervalMs, signal);
    if (signal.aborted) return;
    const startedInPeriod = Date.now() - startedAtMs < health.startPeriodMs;
    const healthy = await events.check(health);
    if (signal.aborted) return;
    if (healthy) {
      failures = 0;
      if (!passed) events.onHealthy();
      passed = true;
    } else if (passed || !startedInPeriod) {
      failures++;
      if (failures >= health.retries) {
        events.onUnhealthy();
        return;
      }
    }
  }
}

export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', done);
    if (signal?.aborted === true) done();
  });
}
