// NetworkAgent: carries the manager's rows, and the node's own host-mode ports, into the data plane, one apply at a
// time, and says which revision is installed. The last rows are kept on disk, so that a node whose agent and data
// plane both died forwards again before any manager answers.

import { readFile } from 'node:fs/promises';
import { create, fromBinary } from '@bufbuild/protobuf';
import { diffRows, hostPortRows } from '../../core/network/rows.js';
import type { Logger } from 'pino';
import { AtomicFiles } from '../../io/atomicfile.js';
import { checkedContent, withChecksum } from '../../io/checkedfile.js';
import { encode } from '../../io/protobuf/codec.js';
import { AppFailure } from '../../lib/result.js';
import { UpdateSchema, type Row, type Update } from '../../model/proto/skein_pb.js';
import type { Task } from '../../model/proto/swarmkit_pb.js';
import type { DataPlane, NodeNetworkConfig } from '../../platform/dataplane.js';

const SAVE_DELAY_MS = 200;
/** Updates waiting to be installed; the manager waits for acknowledgements long before this. */
const QUEUE_MAX = 10_000;

export interface LocalServing {
  readonly tasks: readonly Task[];
  readonly gatewayAddress: (taskId: string) => string | undefined;
}

export class NetworkAgent {
  private rows = new Map<string, Row>();
  private hostRows: ReadonlyMap<string, Row> = new Map();
  private revision = 0n;
  private work: Promise<void> = Promise.resolve();
  private queued = 0;
  private readonly files = new AtomicFiles();
  private saving: Promise<void> = Promise.resolve();
  private saveTimer: NodeJS.Timeout | undefined;
  private readonly dataPlane: DataPlane;
  private readonly file: string;
  private readonly logger: Logger;
  private readonly onBug: (error: unknown) => void;

  constructor(dataPlane: DataPlane, file: string, logger: Logger, onBug: (error: unknown) => void) {
    this.dataPlane = dataPlane;
    this.file = file;
    this.logger = logger;
    this.onBug = onBug;
  }

  /** Configures the data plane and installs the rows of the last life. */
  async start(config: NodeNetworkConfig): Promise<void> {
    await this.dataPlane.configure(config);
    const update = await this.load();
    if (update === undefined) return;
    for (const row of update.upsert) this.rows.set(row.key, row);
    this.revision = update.revision;
    await this.resync();
  }

  /** Undefined when there are none, or none that are whole: the manager sends them again. */
  private async load(): Promise<Update | undefined> {
    const bytes = await readFile(this.file).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    });
    const content = bytes === undefined ? undefined : checkedContent(bytes);
    if (content !== undefined) return fromBinary(UpdateSchema, content);
    if (bytes === undefined) return undefined;
    this.logger.warn({ file: this.file }, 'the saved network rows are damaged: dropped, the manager sends them again');
    await this.files.remove(this.file);
    return undefined;
  }

  /** Everything once more: the data plane lost it. */
  resync(): Promise<void> {
    return this.enqueue(async () => {
      await this.dataPlane.apply({
        revision: this.revision, replace: true, upsert: [...this.rows.values(), ...this.hostRows.values()], remove: [],
      });
    });
  }

  /** Resolves with the revision once the update is installed. */
  async update(update: Update): Promise<bigint> {
    await this.enqueue(async () => {
      if (update.full) this.rows = new Map(update.upsert.map((row) => [row.key, row]));
      else {
        for (const row of update.upsert) this.rows.set(row.key, row);
        for (const key of update.remove) this.rows.delete(key);
      }
      this.revision = update.revision;
      const upsert = update.full ? [...update.upsert, ...this.hostRows.values()] : update.upsert;
      if (update.full || upsert.length > 0 || update.remove.length > 0) {
        await this.dataPlane.apply({ revision: update.revision, replace: update.full, upsert, remove: update.remove });
      }
    });
    this.saveSoon();
    return update.revision;
  }

  /** Host-mode ports follow the node's own running tasks. */
  localChanged(serving: LocalServing): void {
    const wanted = new Map(hostPortRows(serving.tasks, serving.gatewayAddress).map((row) => [row.key, row]));
    const { upsert, remove } = diffRows(this.hostRows, wanted);
    if (upsert.length === 0 && remove.length === 0) return;
    this.hostRows = wanted;
    this.enqueue(async () => {
      await this.dataPlane.apply({ revision: this.revision, replace: false, upsert, remove });
    }).catch((error: unknown) => {
      // A lost data plane gets everything again when it is back.
      if (!(error instanceof AppFailure)) this.onBug(error);
    });
  }

  async clear(): Promise<void> {
    clearTimeout(this.saveTimer);
    await this.work;
    await this.saving;
  }

  private enqueue(body: () => Promise<void>): Promise<void> {
    if (this.queued >= QUEUE_MAX) return Promise.reject(new Error('too many table updates are waiting'));
    this.queued += 1;
    const done = this.work.then(body).finally(() => {
      this.queued -= 1;
    });
    this.work = done.catch(() => undefined); // The caller of this update gets the error.
    return done;
  }

  private saveSoon(): void {
    this.saveTimer ??= setTimeout(() => {
      this.saveTimer = undefined;
      const bytes = encode(UpdateSchema, create(UpdateSchema, { revision: this.revision, full: true, upsert: [...this.rows.values()] }));
      this.saving = this.files.write(this.file, withChecksum(bytes), { mode: 0o600, sync: false }).catch(this.onBug);
    }, SAVE_DELAY_MS);
  }
}
