// Change: collects one reconcile pass's actions, at most one per object, and the next time it has to run again.

import type { StoreAction, Task, Service } from '../../model/proto/swarmkit_pb.js';
import type { NewId } from '../../lib/ids.js';
import { createAction, removeAction, updateAction } from '../store/actions.js';
import type { ReadTx } from '../store/view.js';
import type { Acknowledgements } from '../store/soft.js';

/** Tasks touched in one command: bounds the size of a raft entry (SwarmKit allows 200 changes a transaction). */
export const CHANGES_MAX = 200;

export interface Input {
  readonly view: ReadTx;
  readonly soft: Acknowledgements;
  readonly nowMs: number;
  readonly newId: NewId;
}

export interface Outcome {
  readonly actions: readonly StoreAction[];
  /** Earliest time something becomes due without any event; undefined for never. */
  readonly wakeMs: number | undefined;
}

export class Change {
  private readonly byId = new Map<string, StoreAction>();
  private wake: number | undefined;

  get full(): boolean {
    return this.byId.size >= CHANGES_MAX;
  }

  touched(id: string): boolean {
    return this.byId.has(id);
  }

  createTask(task: Task): void {
    this.byId.set(task.id, createAction('task', task));
  }

  updateTask(task: Task): void {
    this.byId.set(task.id, updateAction('task', task));
  }

  removeTask(task: Task): void {
    this.byId.set(task.id, removeAction('task', task));
  }

  updateService(service: Service): void {
    this.byId.set(service.id, updateAction('service', service));
  }

  wakeAt(ms: number): void {
    if (this.wake === undefined || ms < this.wake) this.wake = ms;
  }

  outcome(): Outcome {
    return { actions: [...this.byId.values()], wakeMs: this.wake };
  }
}
