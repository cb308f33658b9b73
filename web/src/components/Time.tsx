import { Tooltip } from "@mantine/core";
import type { JSX } from "react";
import { useClock } from "../shell/useClock";
import { usePreferences } from "../shell/preferences";
import { formatAbsolute, formatRelative } from "./format";

/** A moment: how long ago, with the absolute time on hover and for those who listen. Missing is a dash. */
export function Time({ at, isAbsolute = false }: { at: string | null | undefined; isAbsolute?: boolean }): JSX.Element {
  const { zone } = usePreferences();
  const nowMs = useClock();
  if (!at) {
    return <span aria-label="none">–</span>;
  }
  const absolute = formatAbsolute(at, zone);
  return (
    <Tooltip label={isAbsolute ? formatRelative(at, nowMs) : absolute}>
      <time dateTime={at}>{isAbsolute ? absolute : formatRelative(at, nowMs)}</time>
    </Tooltip>
  );
}
