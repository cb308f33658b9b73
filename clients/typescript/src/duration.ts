const unitMs: Readonly<Record<string, number>> = {
  ns: 1e-6, us: 1e-3, "µs": 1e-3, "μs": 1e-3, ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000,
};

/** Reads a span as the server writes it (`90s`, `1m30s`, `29.9s`) into milliseconds; undefined if it is none. */
export function parseDuration(text: string): number | undefined {
  if (text === "0") {
    return 0;
  }
  let sum = 0;
  let end = 0;
  for (const part of text.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|μs|ms|s|m|h|d)/gy)) {
    sum += Number(part[1]) * (unitMs[part[2] ?? ""] ?? NaN);
    end = part.index + part[0].length;
  }
  return text !== "" && end === text.length ? sum : undefined;
}

/** Writes milliseconds as a span, rounded up: a delay is never shorter than what was asked for. */
export function formatDuration(ms: number): string {
  // BigInt, because large numbers print with an exponent, which no duration has.
  return `${BigInt(Math.ceil(ms))}ms`;
}
