import { Anchor } from "@mantine/core";
import type { JSX } from "react";
import { formatSpan } from "../components/format";
import type { Line } from "../store/live";
import { usePainted, useServices } from "./services";
import { useClock } from "./useClock";
import classes from "./Shell.module.css";

/** A try or two is nobody's business. */
const quietFailures = 1;

/** How the line does, in the header: one word. */
export function LineState(): JSX.Element {
  const { live } = useServices();
  const line = usePainted(live.line);
  const pauses = usePainted(live.pauses);
  const [state, word] = pauses.size > 0 ? ["paused", "paused"] : isLost(line) ? ["lost", "lost"]
    : line.state === "open" ? ["live", "live"] : ["connecting", "connecting"];
  const at = line.node ? `${word}, from node ${line.node}` : word;
  return <span className={classes["line"]} data-state={state} title={at} data-testid="line"><span>{word}</span></span>;
}

/** A quiet strip above the page, while what it shows gets older: why, how old it is, and what can be done. */
export function LineStrip(): JSX.Element | null {
  const { live, config } = useServices();
  const line = usePainted(live.line);
  const pauses = usePainted(live.pauses);
  const handleGoOn = (): void => { live.pause("key", false); };
  const handleRetry = (): void => { live.retryNow(); };
  return (
    <>
      {config.isDev && <div className={classes["strip"]}>Development mode: unless it was changed, admin with the password password may do everything, from every address.</div>}
      <div role="status">
        {isLost(line) ? (
          <div className={classes["strip"]}>
            <span>{whyLost(line)}</span>
            <Age heardAtMs={line.heardAtMs} />
            <Anchor component="button" type="button" c="inherit" td="underline" fz="inherit" onClick={handleRetry}>Try now</Anchor>
          </div>
        ) : pauses.has("key") && (
          <div className={classes["strip"]}>
            <span>Paused: nothing changes on this page.</span>
            <Age heardAtMs={line.heardAtMs} />
            <Anchor component="button" type="button" c="inherit" td="underline" fz="inherit" onClick={handleGoOn}>Go on (p)</Anchor>
          </div>
        )}
      </div>
    </>
  );
}

/** Not read out: it changes every second. */
function Age({ heardAtMs }: { heardAtMs: number | undefined }): JSX.Element | null {
  const nowMs = useClock();
  return heardAtMs === undefined ? null : <span aria-hidden="true">{`What you see is ${formatSpan(Math.max(1, Math.round((nowMs - heardAtMs) / 1000))).replace(".0", "")} old.`}</span>;
}

function isLost(line: Line): boolean {
  return line.state === "ended" || line.failures > quietFailures;
}

function whyLost({ state, reason }: Line): string {
  if (state !== "ended") {
    return "The line to the server is lost. It is tried again and again.";
  }
  switch (reason) {
    case "login":
      return "Your login has ended.";
    case "right":
      return "You may no longer read here.";
    default:
      return "The server has closed the line, and this page does not understand why.";
  }
}
