// New identifiers of the daemon: random bytes are asked of the system for many at a time. None is used twice.

import { randomFillSync } from 'node:crypto';
import { newId, type NewId, type RandomBytes } from '../../lib/ids.js';

const POOL_BYTES = 4096;
const pool = Buffer.alloc(POOL_BYTES);
let used = POOL_BYTES;

const pooled: RandomBytes = (length) => {
  if (used + length > POOL_BYTES) {
    randomFillSync(pool);
    used = 0;
  }
  used += length;
  return pool.subarray(used - length, used);
};

export const makeId: NewId = () => newId(pooled);
