// Names made up for users: a service created without one; stable 64-digit ids for things that have none of their own.

import { createHash, randomInt } from 'node:crypto';

const FIRST = [
  'amber', 'brisk', 'calm', 'clever', 'cobalt', 'crisp', 'dapper', 'eager', 'fluent', 'gentle', 'golden', 'humble',
  'jolly', 'keen', 'lively', 'lucid', 'mellow', 'nimble', 'placid', 'quick', 'quiet', 'rapid', 'rustic', 'silver',
  'sober', 'solid', 'steady', 'sunny', 'swift', 'tidy', 'vivid', 'witty',
];
const SECOND = [
  'alder', 'aspen', 'badger', 'birch', 'bison', 'cedar', 'crane', 'curlew', 'falcon', 'fern', 'finch', 'heron', 'ibis',
  'juniper', 'kestrel', 'larch', 'linnet', 'lynx', 'maple', 'marten', 'otter', 'plover', 'quail', 'raven', 'rowan',
  'sparrow', 'stork', 'swallow', 'teal', 'thrush', 'willow', 'wren',
];

export function randomName(): string {
  return `${FIRST[randomInt(FIRST.length)]}_${SECOND[randomInt(SECOND.length)]}${randomInt(100)}`;
}

export function digestId(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
