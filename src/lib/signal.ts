// Signal: "something changed, look again". Any number of raises before a wait count once.

export class Signal {
  private raised = false;
  private waiting: (() => void) | undefined;

  raise(): void {
    if (this.waiting !== undefined) {
      const resume = this.waiting;
      this.waiting = undefined;
      resume();
    } else {
      this.raised = true;
    }
  }

  /** Resolves at the next raise, or at once when one is pending. One waiter at a time. */
  wait(): Promise<void> {
    if (this.raised) {
      this.raised = false;
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      this.waiting = resolve;
    });
  }
}
