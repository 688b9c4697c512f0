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
