import type { JSX } from "react";

const width = 96;
const height = 20;

/** The course of a number, as small as a word. What it says in figures stands beside it. */
export function Sparkline({ values, label, color = "--running" }: { values: readonly number[]; label: string; color?: string }): JSX.Element {
  return (
    <svg width={width} height={height} viewBox={`0 0 ${width} ${height}`} role="img" aria-label={label} style={{ display: "block" }}>
      <polyline points={pointsOf(values)} fill="none" stroke={`var(${color})`} strokeWidth={1.25} strokeLinejoin="round" />
    </svg>
  );
}

/** From left to right, zero at the bottom, the greatest at the top. */
export function pointsOf(values: readonly number[]): string {
  const most = Math.max(...values, 1e-9);
  const step = width / Math.max(values.length - 1, 1);
  return values.map((value, i) => `${(i * step).toFixed(1)},${(height - 1 - (value / most) * (height - 2)).toFixed(1)}`).join(" ");
}
