// FrameReader: the frames of a link out of the pieces they arrive in. Each is copied out of the pieces once, so that
// an entry that is kept keeps no more than its own frame.

import { FRAME_BYTES_MAX, LENGTH_BYTES, WireError } from './messages.js';

export class FrameReader {
  private pieces: Buffer[] = [];
  private bytes = 0;
  /** Of the frame that is being read; undefined before its header is here. */
  private length: number | undefined;

  /** The frames that are complete with this piece; throws WireError for one that is too long. */
  push(piece: Buffer): Buffer[] {
    this.pieces.push(piece);
    this.bytes += piece.length;
    const frames: Buffer[] = [];
    for (;;) {
      if (this.length === undefined) {
        if (this.bytes < LENGTH_BYTES) return frames;
        this.length = this.take(LENGTH_BYTES).readUInt32BE();
        if (this.length > FRAME_BYTES_MAX) throw new WireError(`a frame of ${this.length} bytes`);
      }
      if (this.bytes < this.length) return frames;
      frames.push(this.take(this.length));
      this.length = undefined;
    }
  }

  private take(count: number): Buffer {
    const taken = Buffer.allocUnsafeSlow(count);
    let at = 0;
    while (at < count) {
      const piece = this.pieces[0] as Buffer;
      const part = Math.min(piece.length, count - at);
      piece.copy(taken, at, 0, part);
      at += part;
      if (part === piece.length) this.pieces.shift();
      else this.pieces[0] = piece.subarray(part);
    }
    this.bytes -= count;
    return taken;
  }
}
