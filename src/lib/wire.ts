// Protobuf's wire format by hand, for the few messages that every write passes through several times: the general
// library takes ten times as long for them. Readers meet what other processes sent: they throw WireError for whatever is no
// protobuf, and skip fields they do not know.

const LOW = 0xffffffffn;

/** Bytes that are not what was expected. They came from outside: a caller refuses them. */
export class WireError extends Error {
  override readonly name = 'WireError';
}

export function sizeOfNumber(value: number): number {
  return value < 0x80 ? 1 : value < 0x4000 ? 2 : value < 0x20_0000 ? 3 : value < 0x1000_0000 ? 4 : 5;
}

export function sizeOfUint64(value: bigint): number {
  if (value <= LOW) return sizeOfNumber(Number(value));
  let size = 5;
  for (let rest = Number(value >> 35n); rest > 0; rest = Math.floor(rest / 128)) size += 1;
  return size;
}

/** Of a field below 16 that holds an uint64, which is left out when zero. */
export function sizeOfUint64Field(value: bigint): number {
  return value === 0n ? 0 : 1 + sizeOfUint64(value);
}

/** Of a field below 16 that holds bytes or a message. */
export function sizeOfBytesField(length: number): number {
  return 1 + sizeOfNumber(length) + length;
}

/** Into a buffer that is as large as it has to be. */
export class WireWriter {
  readonly bytes: Uint8Array;
  private at: number;

  constructor(bytes: Uint8Array, at = 0) {
    this.bytes = bytes;
    this.at = at;
  }

  /** At most 32 bits. */
  number(value: number): void {
    let rest = value;
    while (rest > 127) {
      this.bytes[this.at++] = (rest & 127) | 128;
      rest >>>= 7;
    }
    this.bytes[this.at++] = rest;
  }

  uint64(value: bigint): void {
    if (value <= LOW) {
      this.number(Number(value));
      return;
    }
    let low = Number(value & LOW);
    let high = Number(value >> 32n);
    while (high > 0) {
      this.bytes[this.at++] = (low & 127) | 128;
      low = ((low >>> 7) | (high << 25)) >>> 0;
      high >>>= 7;
    }
    this.number(low);
  }

  uint64Field(field: number, value: bigint): void {
    if (value === 0n) return;
    this.number(field << 3);
    this.uint64(value);
  }

  numberField(field: number, value: number): void {
    if (value === 0) return;
    this.number(field << 3);
    this.number(value);
  }

  /** Of bytes, or of a message that is written next. */
  lengthField(field: number, length: number): void {
    this.number(field << 3 | 2);
    this.number(length);
  }

  raw(bytes: Uint8Array): void {
    this.bytes.set(bytes, this.at);
    this.at += bytes.length;
  }
}

export class WireReader {
  private readonly bytes: Uint8Array;
  private at: number;
  private readonly end: number;

  constructor(bytes: Uint8Array, at = 0, end = bytes.length) {
    this.bytes = bytes;
    this.at = at;
    this.end = end;
  }

  get done(): boolean {
    return this.at >= this.end;
  }

  private byte(): number {
    if (this.at >= this.end) throw new WireError('cut off');
    return this.bytes[this.at++] as number;
  }

  /** A tag, a length, an enum: what has more than 32 bits is none of these. */
  number(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.byte();
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return value;
    }
    throw new WireError('a number of more than 32 bits');
  }

  uint64(): bigint {
    let low = 0;
    for (let shift = 0; shift < 28; shift += 7) {
      const byte = this.byte();
      low += (byte & 127) << shift;
      if (byte < 128) return BigInt(low);
    }
    let high = 0;
    for (let shift = 0; shift < 42; shift += 7) {
      const byte = this.byte();
      high += (byte & 127) * 2 ** shift;
      if (byte < 128) return BigInt.asUintN(64, BigInt(high) * 0x1000_0000n + BigInt(low));
    }
    throw new WireError('a number of more than 64 bits');
  }

  /** A view, not a copy. */
  bytesField(): Uint8Array {
    const length = this.number();
    if (length > this.end - this.at) throw new WireError('cut off');
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  message(): WireReader {
    const length = this.number();
    if (length > this.end - this.at) throw new WireError('cut off');
    this.at += length;
    return new WireReader(this.bytes, this.at - length, this.at);
  }

  skip(tag: number): void {
    const type = tag & 7;
    if (type === 0) this.uint64();
    else if (type === 1) this.forward(8);
    else if (type === 2) this.forward(this.number());
    else if (type === 5) this.forward(4);
    else throw new WireError(`wire type ${type}`);
  }

  private forward(count: number): void {
    if (count > this.end - this.at) throw new WireError('cut off');
    this.at += count;
  }
}
