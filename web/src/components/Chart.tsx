import "uplot/dist/uPlot.min.css";
import { useComputedColorScheme } from "@mantine/core";
import { useElementSize } from "@mantine/hooks";
import { useEffect, useRef, type JSX } from "react";
import uPlot from "uplot";
import { usePreferences } from "../shell/preferences";

export interface Line {
  readonly label: string;
  /** The name of a variable of theme.css. */
  readonly color: string;
  /** One for each time; null leaves a gap. */
  readonly values: readonly (number | null)[];
}

interface ChartProps {
  /** What it shows, for those who do not see it. */
  label: string;
  /** Seconds since 1970. */
  times: readonly number[];
  lines: readonly Line[];
  format: (value: number | null) => string;
  /** What the scale shows at least, so that small things look small. */
  least: number;
  height?: number;
}

/** Lines over time. Their colours are those of the theme; the legend says the values under the pointer. */
export function Chart({ label, times, lines, format, least, height = 140 }: ChartProps): JSX.Element {
  const { ref, width } = useElementSize();
  const holder = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(undefined);
  const scheme = useComputedColorScheme();
  const { zone } = usePreferences();
  const shape = lines.map((line) => `${line.label}\t${line.color}`).join("\n");

  useEffect(() => {
    const element = holder.current;
    if (!element || width === 0) {
      return undefined;
    }
    const styles = getComputedStyle(document.documentElement);
    const soft = styles.getPropertyValue("--soft");
    const edge = styles.getPropertyValue("--edge");
    const axis = { stroke: soft, grid: { stroke: edge, width: 1 }, ticks: { stroke: edge, width: 1 }, font: "11px system-ui, sans-serif" };
    const made = new uPlot({
      width, height,
      ...(zone === "utc" ? { tzDate: (seconds: number) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC") } : {}),
      axes: [{ ...axis, values: "{HH}:{mm}:{ss}", space: 70 }, { ...axis, size: 60, values: (_plot, ticks) => ticks.map(format) }],
      scales: { y: { range: (_plot, _min, max) => [0, Math.max(max, least) * 1.1] } },
      series: [
        { value: "{HH}:{mm}:{ss}" },
        ...shape.split("\n").map((line) => {
          const [name = "", color = ""] = line.split("\t");
          return { label: name, stroke: styles.getPropertyValue(color), width: 1.5, points: { show: false }, value: (_plot: uPlot, value: number | null) => format(value) };
        }),
      ],
    }, [[], ...shape.split("\n").map(() => [])], element);
    plot.current = made;
    return () => {
      plot.current = undefined;
      made.destroy();
    };
  }, [width, height, shape, scheme, zone, format, least]);

  useEffect(() => {
    plot.current?.setData([[...times], ...lines.map((line) => [...line.values])]);
  }, [times, lines, width, height, shape, scheme, zone, format, least]);

  return <div ref={ref} style={{ minHeight: height }}><div ref={holder} role="img" aria-label={label} /></div>;
}
