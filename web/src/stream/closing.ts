/** What is done after a close. pauseMs undefined: back off. */
export type Advice = { readonly comesBack: false } | { readonly comesBack: true; readonly pauseMs: number | undefined };

const final: ReadonlySet<number> = new Set([
  1000, 1002, 1003, 1007, 1009, // done; and four ways to say that this client has a bug
  4400, 4409, // two more
  4401, 4403, // the login has ended, or a right was taken away
  4410, 4412, // plain mode: the log cannot go on
]);

const floodPauseMs = 30_000;
/** Whatever a server says. */
const longestPauseMs = 60_000;

/** What a close code asks for. retryMs is what the server said beside it. A code that is not known is a broken line. */
export function adviceOf(code: number, retryMs: number | undefined): Advice {
  if (final.has(code)) {
    return { comesBack: false };
  }
  if (code === 4429) {
    return { comesBack: true, pauseMs: floodPauseMs };
  }
  const said = (code === 1001 || code === 4508) && retryMs !== undefined && retryMs > 0;
  return { comesBack: true, pauseMs: said ? Math.min(retryMs, longestPauseMs) : undefined };
}

/** What the text of a close frame says; a proxy says something else, or nothing. */
export function parseReason(text: string): { code: string; retryMs: number | undefined } {
  try {
    const reason = JSON.parse(text) as { code?: unknown; retry_ms?: unknown } | null;
    return {
      code: typeof reason?.code === "string" ? reason.code : "",
      retryMs: typeof reason?.retry_ms === "number" ? reason.retry_ms : undefined,
    };
  } catch {
    return { code: "", retryMs: undefined };
  }
}

/** Pauses from the whole of a bound that doubles, so that the clients of a node that went do not come back together. */
export class Backoff {
  private failures = 0;

  constructor(
    private readonly firstMs = 500,
    private readonly capMs = 30_000,
    private readonly random: () => number = Math.random,
  ) {}

  next(): number {
    const bound = Math.min(this.firstMs * 2 ** Math.min(this.failures, 16), this.capMs);
    this.failures++;
    return this.random() * bound;
  }

  reset(): void {
    this.failures = 0;
  }
}
