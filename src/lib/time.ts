// Conversions between milliseconds and protobuf's Timestamp and Duration.

import { create } from '@bufbuild/protobuf';
import { DurationSchema, TimestampSchema, type Duration, type Timestamp } from '@bufbuild/protobuf/wkt';

export function timestampFromMs(ms: number): Timestamp {
  const seconds = Math.floor(ms / 1000);
  return create(TimestampSchema, { seconds: BigInt(seconds), nanos: Math.round((ms - seconds * 1000) * 1e6) });
}

export function timestampMs(timestamp: Timestamp | undefined): number {
  return timestamp === undefined ? 0 : Number(timestamp.seconds) * 1000 + timestamp.nanos / 1e6;
}

export function durationFromMs(ms: number): Duration {
  return durationFromNs(BigInt(Math.round(ms * 1e6)));
}

export function durationFromNs(ns: bigint): Duration {
  const seconds = ns / 1_000_000_000n;
  return create(DurationSchema, { seconds, nanos: Number(ns - seconds * 1_000_000_000n) });
}

export function durationNs(duration: Duration | undefined): bigint {
  return duration === undefined ? 0n : duration.seconds * 1_000_000_000n + BigInt(duration.nanos);
}

export function durationMs(duration: Duration | undefined): number {
  return duration === undefined ? 0 : Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}

/** Clocks of managers that are kept right differ by less. */
const CLOCK_SLACK_MS = 5_000;

/**
 * When a wait is over that began at a time somebody wrote down. A beginning that lies ahead is of a clock that was put back since,
 * or of another manager's: nobody waits an hour because of it.
 */
export function waitedAt(sinceMs: number, waitMs: number, nowMs: number): number {
  return sinceMs > nowMs + CLOCK_SLACK_MS ? nowMs : sinceMs + waitMs;
}
