// A process in a container's network namespace: asks Docker's DNS there for a name, one query after another, and tells its
// parent how many addresses the answer has whenever that changes, on the clock that all processes share.

import { createSocket } from 'node:dgram';

export interface Answered {
  readonly addresses: number;
  readonly at: number;
}

const SERVER = '127.0.0.11';
const PORT = 53;
const PAUSE_MS = 2;
/** An answer that is lost is asked for again. */
const TIMEOUT_MS = 500;
const HEADER = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
const TYPE_A_CLASS_IN = [0, 1, 0, 1];
const ANSWERS_AT = 6;
const ID_LIMIT = 0x10000;

const name = process.argv[2] ?? '';
const labels = name.split('.').flatMap((label) => [label.length, ...Buffer.from(label)]);
const query = Buffer.from([...HEADER, ...labels, 0, ...TYPE_A_CLASS_IN]);
const socket = createSocket('udp4');
let id = 0;
let last = -1;
let timer: NodeJS.Timeout;

function ask(): void {
  id = (id + 1) % ID_LIMIT;
  query.writeUInt16BE(id, 0);
  socket.send(query, PORT, SERVER);
  timer = setTimeout(ask, TIMEOUT_MS);
}

socket.on('message', (answer) => {
  if (answer.length < query.length || answer.readUInt16BE(0) !== id) return;
  clearTimeout(timer);
  const addresses = answer.readUInt16BE(ANSWERS_AT);
  if (addresses !== last) process.send?.({ addresses, at: performance.timeOrigin + performance.now() } satisfies Answered);
  last = addresses;
  timer = setTimeout(ask, PAUSE_MS);
});
process.on('disconnect', () => process.exit(0));
ask();
