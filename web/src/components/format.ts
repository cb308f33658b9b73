/** How numbers, spans and times are written. Nothing in here knows React. */

export type TimeZoneChoice = "utc" | "local";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 12340 is "12,340". */
export function formatCount(n: number): string {
  return whole.format(n);
}

/** Per second: "0", "<0.1", "0.3", "12", "1,200". */
export function formatRate(perSecond: number | null): string {
  if (perSecond === null) {
    return "–";
  }
  if (perSecond > 0 && perSecond < 0.05) {
    return "<0.1";
  }
  return perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : whole.format(perSecond);
}

/** "1 job", "37 jobs". */
export function plural(n: number, one: string, many = `${one}s`): string {
  return `${formatCount(n)} ${n === 1 ? one : many}`;
}

/** A measured span: "4 ms", "1.2 s", "3 min", "2 h", "5 d". */
export function formatSpan(seconds: number | null): string {
  if (seconds === null) {
    return "–";
  }
  const size = Math.abs(seconds);
  if (size < 1) {
    return `${Math.round(seconds * 1000)} ms`;
  }
  if (size < 10) {
    return `${seconds.toFixed(1)} s`;
  }
  if (size < 60) {
    return `${Math.floor(seconds)} s`;
  }
  if (size < 3600) {
    return `${Math.floor(seconds / 60)} min`;
  }
  return size < 86_400 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} d`;
}

/** How long ago, or how far ahead: "just now", "12 s ago", "in 3 min". */
export function formatRelative(time: string, nowMs: number): string {
  const seconds = (Date.parse(time) - nowMs) / 1000;
  if (Math.abs(seconds) < 1.5) {
    return "just now";
  }
  const span = formatSpan(Math.max(2, Math.round(Math.abs(seconds)))).replace(".0", "");
  return seconds > 0 ? `in ${span}` : `${span} ago`;
}

/** "2026-03-01 12:00:00.123 UTC", or the same in the zone of the machine. */
export function formatAbsolute(time: string, zone: TimeZoneChoice): string {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) {
    return time;
  }
  if (zone === "utc") {
    return `${date.toISOString().slice(0, 23).replace("T", " ")} UTC`;
  }
  const two = (n: number, digits = 2): string => String(n).padStart(digits, "0");
  const minutes = -date.getTimezoneOffset();
  const offset = `${minutes < 0 ? "-" : "+"}${two(Math.floor(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ` +
    `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${two(date.getMilliseconds(), 3)} ${offset}`;
}

/** The end of an id, which tells two of them apart; the beginning is only the time. */
export function shortID(id: string): string {
  return id.length > 12 ? `…${id.slice(-8)}` : id;
}

/** "312 B", "4.2 KiB", "200 KiB", "1.3 MiB". */
export function formatBytes(octets: number): string {
  if (octets < 1024) {
    return `${octets} B`;
  }
  const [size, unit] = octets < 1024 * 1024 ? [octets / 1024, "KiB"] : [octets / 1024 / 1024, "MiB"];
  return `${size < 10 ? size.toFixed(1).replace(".0", "") : whole.format(size)} ${unit}`;
}
