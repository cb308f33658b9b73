import type { IconName } from "../../components/Icon";
import type { MarkTone } from "../../components/Mark";
import type { Worker } from "../../api/types";

export interface WorkerLook {
  readonly tone: MarkTone;
  readonly icon: IconName;
  readonly word: string;
}

/** How a worker does, in a word. What it was asked for and has not done yet is said, too. */
export function lookOf({ state, asked }: Pick<Worker, "state" | "asked">): WorkerLook {
  if (state === "offline") {
    return { tone: "bad", icon: "cross", word: "offline" };
  }
  if (asked === "drain" || state === "draining") {
    return { tone: "warn", icon: "hourglass", word: state === "draining" ? "draining" : "asked to drain" };
  }
  return asked === "quiet" ? { tone: "warn", icon: "pause", word: "quiet" } : { tone: "good", icon: "check", word: "online" };
}

/** Those with work in hand first, the silent ones last, then by name. */
export function sortWorkers(workers: readonly Worker[]): Worker[] {
  const rank = ({ state, busy }: Worker): number => state === "offline" ? 2 : busy > 0 ? 0 : 1;
  return workers.toSorted((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : a.name > b.name ? 1 : a.id < b.id ? -1 : 1));
}

/** "mail 3, all 1": what it takes, with the weights. */
export function queuesText(queues: Worker["queues"]): string {
  return Object.entries(queues).toSorted(([, a], [, b]) => b - a).map(([name, weight]) => `${name === "*" ? "all others" : name} ${weight}`).join(", ");
}
