// Signals by Docker's names: "SIGTERM", "term", "15", "RTMIN+3".

import os from 'node:os';
import { AppFailure, appError } from '../../lib/result.js';

const sigRtMin = 34;
const sigRtMax = 64;

export function parseSignal(name: string): number {
  if (/^[0-9]+$/.test(name)) {
    const number = Number(name);
    if (number > 0 && number <= sigRtMax) return number;
  }
  const bare = name.toUpperCase().replace(/^SIG/, '');
  const number = (os.constants.signals as Readonly<Record<string, number>>)[`SIG${bare}`];
  if (number !== undefined) return number;
  const realtime = /^RT(MIN|MAX)([+-][0-9]+)?$/.exec(bare);
  if (realtime !== null) {
    const value = (realtime[1] === 'MIN' ? sigRtMin : sigRtMax) + Number(realtime[2] ?? 0);
    if (value >= sigRtMin && value <= sigRtMax) return value;
  }
  throw new AppFailure(appError('invalid_argument', `invalid signal: ${name}`));
}
