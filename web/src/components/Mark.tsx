import type { JSX } from "react";
import { Icon, type IconName } from "./Icon";
import classes from "./Mark.module.css";

/** How something does that is no job: colour, icon and word. */
export type MarkTone = "good" | "busy" | "warn" | "bad" | "none";

export function Mark({ tone, icon, children }: { tone: MarkTone; icon: IconName; children: string }): JSX.Element {
  return <span className={classes["mark"]} data-tone={tone}><Icon name={icon} size={13} />{children}</span>;
}
