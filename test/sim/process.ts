// Processes of the simulated world: generators that yield what they wait for. One that is not alive any more when that
// comes is left where it is: its machine crashed, or its term ended.

/** Calls back once, now or later, or never. */
export type Wait<T> = (resume: (value: T) => void) => void;
export type Process<T = void> = Generator<Wait<unknown>, T, unknown>;

export function run(process: Process, alive: () => boolean): void {
  const step = (value: unknown): void => {
    if (!alive()) return;
    const next = process.next(value);
    if (next.done === true) return;
    let resumed = false;
    next.value((result) => {
      // Late answers of what was asked twice.
      if (resumed) return;
      resumed = true;
      step(result);
    });
  };
  step(undefined);
}

/** `yield*` it: the value has its type. */
export function* until<T>(wait: Wait<T>): Process<T> {
  return (yield wait as Wait<unknown>) as T;
}
