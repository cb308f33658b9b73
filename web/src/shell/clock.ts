/** A clock that ticks once a second for all who look at it, and stands while nobody does. */
export class Clock {
  private nowMs = Date.now();
  private aheadMs = 0;
  private readonly listeners = new Set<() => void>();
  private timer: ReturnType<typeof setInterval> | undefined;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    if (!this.timer) {
      this.tick();
      this.timer = setInterval(() => { this.tick(); }, 1000);
    }
    return () => {
      this.listeners.delete(listener);
      if (this.listeners.size === 0) {
        clearInterval(this.timer);
        this.timer = undefined;
      }
    };
  };

  /** The database's time as far as it is known, in milliseconds. */
  readonly get = (): number => this.nowMs;

  /** What the database's clock is ahead of this machine's. Less than a second is the way of the frame that told it. */
  setAhead(aheadMs: number): void {
    this.aheadMs = Math.abs(aheadMs) < 1000 ? 0 : aheadMs;
  }

  private tick(): void {
    this.nowMs = Date.now() + this.aheadMs;
    for (const listener of this.listeners) {
      listener();
    }
  }
}

export const clock = new Clock();
