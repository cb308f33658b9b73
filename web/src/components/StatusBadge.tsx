import type { JSX } from "react";
import type { JobStatus } from "../api/types";
import { Icon, type IconName } from "./Icon";
import classes from "./StatusBadge.module.css";

const icons: Readonly<Record<JobStatus, IconName>> = {
  scheduled: "clock", blocked: "blocked", pending: "hourglass", running: "play", retrying: "repeat", completed: "check", dead: "cross",
  cancelled: "minus",
};

/** A status: colour, icon and word, the same everywhere. */
export function StatusBadge({ status }: { status: JobStatus }): JSX.Element {
  return (
    <span className={classes["badge"]} data-status={status}>
      <Icon name={icons[status]} size={13} />
      {status}
    </span>
  );
}
