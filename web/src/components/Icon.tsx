import type { JSX } from "react";

/** Strokes on a grid of 16. */
const paths = {
  overview: "M2 9h3.5v5H2zM6.3 5h3.4v9H6.3zM10.5 2H14v12h-3.5z",
  jobs: "M2 4h12M2 8h12M2 12h8",
  queues: "M2.5 3h11v3h-11zM2.5 8h11v5h-11z",
  failures: "M8 2.5 14.5 13.5h-13zM8 6.5v3M8 11.5v.1",
  workers: "M4 4h8v8H4zM6.5 1.5V4M9.5 1.5V4M6.5 12v2.5M9.5 12v2.5M1.5 6.5H4M1.5 9.5H4M12 6.5h2.5M12 9.5h2.5",
  events: "M1.5 8.5h3l2-5.5 3 10 2-4.5h3",
  settings: "M2 4.5h7M12 4.5h2M2 11.5h2M7 11.5h7M10.5 3v3M5.5 10v3",
  search: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM10.5 10.5 14 14",
  close: "M4 4l8 8M12 4l-8 8",
  check: "M3 8.5 6.5 12 13 4.5",
  cross: "M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8zM5.8 5.8l4.4 4.4M10.2 5.8l-4.4 4.4",
  clock: "M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8zM8 4.5V8l2.5 1.8",
  hourglass: "M4 2h8M4 14h8M4.8 2c0 3.5 6.4 3.5 6.4 6s-6.4 2.5-6.4 6M11.2 2c0 3.5-6.4 3.5-6.4 6s6.4 2.5 6.4 6",
  play: "M4.5 2.8 13 8l-8.5 5.2z",
  pause: "M5 3v10M11 3v10",
  repeat: "M13 8a5 5 0 1 1-1.6-3.7M13.2 1.8v3h-3",
  blocked: "M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8zM3.7 12.3l8.6-8.6",
  minus: "M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8zM5 8h6",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  sun: "M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM8 1v1.6M8 13.4V15M1 8h1.6M13.4 8H15M3 3l1.2 1.2M11.8 11.8 13 13M13 3l-1.2 1.2M4.2 11.8 3 13",
  moon: "M13.5 9.8A6 6 0 1 1 6.2 2.5a4.8 4.8 0 0 0 7.3 7.3z",
  screen: "M1.5 3h13v8h-13zM5.5 14h5M8 11v3",
  menu: "M2 4h12M2 8h12M2 12h12",
  help: "M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8zM6.2 6.3a1.9 1.9 0 1 1 2.6 1.9c-.6.2-.8.6-.8 1.2M8 11.4v.1",
  person: "M8 2.5a2.7 2.7 0 1 0 0 5.4 2.7 2.7 0 0 0 0-5.4zM2.8 14c.4-2.8 2.4-4.2 5.2-4.2s4.8 1.4 5.2 4.2",
  plus: "M8 3v10M3 8h10",
  consumers: "M2 4h6M2 8h8M2 12h6M11 5l3 3-3 3",
  webhooks: "M2 8h7M6 5l3 3-3 3M11 3h3v10h-3",
  audit: "M3.5 1.8h9v12.4h-9zM6 5h4M6 8h4M6 11h2.5",
  left: "M10 3 5 8l5 5",
  right: "M6 3l5 5-5 5",
} as const;

export type IconName = keyof typeof paths;

/** An icon beside a word that says the same; it is not read out. */
export function Icon({ name, size = 16 }: { name: IconName; size?: number }): JSX.Element {
  return (
    <svg viewBox="0 0 16 16" width={size} height={size} fill="none" stroke="currentColor" strokeWidth={1.5} strokeLinecap="round"
      strokeLinejoin="round" aria-hidden="true" focusable="false">
      <path d={paths[name]} />
    </svg>
  );
}
