// Simulated time: what is to happen, by time, then by order of planning. Nothing waits; run() jumps from event to event.

interface Event {
  readonly atMs: number;
  readonly order: number;
  readonly action: () => void;
}

export class Clock {
  nowMs = 0;
  eventCount = 0;
  private readonly heap: Event[] = [];
  private planned = 0;

  after(delayMs: number, action: () => void): void {
    const event = { atMs: this.nowMs + delayMs, order: this.planned++, action };
    const { heap } = this;
    let at = heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(event, heap[parent] as Event)) break;
      heap[at] = heap[parent] as Event;
      at = parent;
    }
    heap[at] = event;
  }

  /** Up to this time. */
  run(untilMs: number): void {
    for (let next = this.heap[0]; next !== undefined && next.atMs <= untilMs; next = this.heap[0]) {
      this.pop();
      this.nowMs = next.atMs;
      this.eventCount += 1;
      next.action();
    }
    this.nowMs = untilMs;
  }

  private pop(): void {
    const { heap } = this;
    const last = heap.pop() as Event;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1] as Event, heap[child] as Event)) child += 1;
      if (!before(heap[child] as Event, last)) break;
      heap[at] = heap[child] as Event;
      at = child;
    }
    heap[at] = last;
  }
}

function before(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
