// channel: frames over the data plane's unix socket. Requests are numbered and answered; DNS misses come unasked.
// Losing the connection fails everything outstanding, once.

import { connect, type Socket } from 'node:net';
import { AppFailure, appError, type ErrorCode } from '../../lib/result.js';
import { ABI_VERSION, FRAME_HEADER_SIZE, FRAME_SIZE_MAX, FrameType, packStruct } from './layout.js';

interface Waiting {
  readonly resolve: (body: Buffer) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

const CODES: readonly ErrorCode[] = [
  'invalid_argument',
  'failed_precondition',
  'resource_exhausted',
  'unimplemented',
  'not_found',
  'already_exists',
];

/** The data plane's error text starts with a code where one fits. */
function failureOf(text: string): AppFailure {
  const [head = '', ...rest] = text.split(': ');
  if (head === 'invalid') return new AppFailure(appError('invalid_argument', rest.join(': ')));
  if (head === 'unsupported') return new AppFailure(appError('unimplemented', rest.join(': ')));
  const code = CODES.find((c) => c === head);
  return new AppFailure(appError(code ?? 'internal', code ? rest.join(': ') : text));
}

export class Channel {
  readonly #socket: Socket;
  readonly #waiting = new Map<bigint, Waiting>();
  #nextId = 1n;
  #pieces: Buffer = Buffer.alloc(0);
  #closed = false;
  #foreignAbi = false;
  onMiss: (body: Buffer) => void = () => {};
  onClose: () => void = () => {};

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (data) => this.#receive(data));
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#lost());
  }

  static open(path: string): Promise<Channel> {
    return new Promise((resolve, reject) => {
      const socket = connect(path);
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new Channel(socket));
      });
    });
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** The other side speaks another ABI: it is of another version of this project. */
  get foreignAbi(): boolean {
    return this.#foreignAbi;
  }

  request(type: number, body: Uint8Array, timeoutMs = 30_000): Promise<Buffer> {
    if (this.#closed) return Promise.reject(lostFailure());
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(new AppFailure(appError('deadline_exceeded', `data plane: no answer in ${timeoutMs} ms`)));
        // A data plane that does not answer is as good as lost; the owner reconnects or restarts it.
        this.#socket.destroy();
      }, timeoutMs);
      this.#waiting.set(id, { resolve, reject, timer });
      this.#write(type, id, body);
    });
  }

  /** A frame that is not answered. */
  notify(type: number, body: Uint8Array): void {
    if (!this.#closed) this.#write(type, 0n, body);
  }

  close(): void {
    this.#socket.destroy();
  }

  unref(): void {
    this.#socket.unref();
  }

  #write(type: number, id: bigint, body: Uint8Array): void {
    if (body.length > FRAME_SIZE_MAX) throw new RangeError(`frame of ${body.length} bytes`);
    this.#socket.write(packStruct('FrameHeader', { size: body.length, type, abi: ABI_VERSION, id }));
    if (body.length > 0) this.#socket.write(body);
  }

  #receive(data: Buffer): void {
    this.#pieces = this.#pieces.length === 0 ? data : Buffer.concat([this.#pieces, data]);
    while (this.#pieces.length >= FRAME_HEADER_SIZE) {
      const size = this.#pieces.readUInt32LE(0);
      const type = this.#pieces.readUInt16LE(4);
      const abi = this.#pieces.readUInt16LE(6);
      const id = this.#pieces.readBigUInt64LE(8);
      if (size > FRAME_SIZE_MAX || abi !== ABI_VERSION) {
        this.#foreignAbi = abi !== ABI_VERSION;
        this.#socket.destroy();
        return;
      }
      if (this.#pieces.length < FRAME_HEADER_SIZE + size) return;
      const body = this.#pieces.subarray(FRAME_HEADER_SIZE, FRAME_HEADER_SIZE + size);
      this.#pieces = this.#pieces.subarray(FRAME_HEADER_SIZE + size);
      this.#dispatch(type, id, body);
    }
  }

  #dispatch(type: number, id: bigint, body: Buffer): void {
    if (type === FrameType.dnsMiss) {
      this.onMiss(body);
      return;
    }
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    this.#waiting.delete(id);
    clearTimeout(waiting.timer);
    if (type === FrameType.ok) waiting.resolve(body);
    else waiting.reject(failureOf(body.toString('utf8')));
  }

  #lost(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(lostFailure());
    }
    this.#waiting.clear();
    this.onClose();
  }
}

export function lostFailure(): AppFailure {
  return new AppFailure(appError('unavailable', 'data plane: connection lost'));
}
