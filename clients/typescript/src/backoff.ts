import { setTimeout as delay } from "node:timers/promises";
import { UnavailableError } from "./errors.js";

/** Growing pauses between tries: each is drawn from the upper half of a bound that doubles up to a cap, so that clients
 * that failed together do not come back together. Milliseconds. */
export class Backoff {
  private bound: number;

  constructor(
    private readonly first = 100,
    private readonly cap = 5000,
    private readonly random: () => number = Math.random,
  ) {
    this.bound = first;
  }

  next(): number {
    const pause = this.bound * (0.5 + this.random() / 2);
    this.bound = Math.min(this.bound * 2, this.cap);
    return pause;
  }

  /** The pause after an error: longer than the usual one if the server asked for that. */
  after(error: unknown): number {
    return Math.max(this.next(), (error instanceof UnavailableError && error.retryAfterMs) || 0);
  }

  reset(): void {
    this.bound = this.first;
  }
}

/** Waits; false if the signal ended that early. */
export async function pause(ms: number, signal?: AbortSignal): Promise<boolean> {
  if (signal?.aborted) {
    return false;
  }
  try {
    await delay(ms, undefined, signal ? { signal } : {});
    return true;
  } catch {
    return false; // delay rejects for nothing else than the signal
  }
}

/** Whether the same call may succeed later. */
export type Transient = (error: unknown) => boolean;

/** Calls until it succeeds, fails for good, or a number of milliseconds has passed since the first try. */
export async function retrying<T>(
  call: () => Promise<T>,
  options: { forMs: number; transient: Transient; signal?: AbortSignal | undefined; backoff?: Backoff },
): Promise<T> {
  const backoff = options.backoff ?? new Backoff();
  const end = performance.now() + options.forMs;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      const wait = backoff.after(error);
      if (!options.transient(error) || performance.now() + wait > end) {
        throw error;
      }
      if (!(await pause(wait, options.signal))) {
        throw options.signal?.reason;
      }
    }
  }
}
