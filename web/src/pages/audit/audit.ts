import type { AuditLine, AuditQuery } from "../../api/types";
import type { TimeZoneChoice } from "../../components/format";
import type { Search } from "../../shell/search";
import { parseJump } from "../events/events";

export const fields = { actor: "Who", action: "Action", target: "On what", after: "Since", before: "Until" } as const;
export type Field = keyof typeof fields;

/** What the address asks for; values that the server would refuse are left to it to refuse. */
export function toQuery(search: Search): AuditQuery {
  const query: Partial<Record<Field, string>> = {};
  for (const name of Object.keys(fields) as Field[]) {
    const value = search[name]?.trim();
    if (value) {
      query[name] = value;
    }
  }
  return query;
}

/** A time as somebody types it, as the server takes it; what is no time stays as it is, and the server says so. */
export function timeText(text: string, zone: TimeZoneChoice, nowMs: number): string {
  const jump = parseJump(text, zone, nowMs);
  return jump && "atMs" in jump ? new Date(jump.atMs).toISOString() : text.trim();
}

/** What an action changed, member by member: "paused: false → true". A value of one side alone stands alone. */
export function changesOf({ before, after }: Pick<AuditLine, "before" | "after">): string[] {
  const old = membersOf(before);
  const now = membersOf(after);
  return [...new Set([...Object.keys(old), ...Object.keys(now)])].flatMap((name) => {
    const [was, is] = [JSON.stringify(old[name]), JSON.stringify(now[name])];
    return was === is ? [] : was === undefined ? `${name}: ${is}` : is === undefined ? `${name}: ${was} → gone` : `${name}: ${was} → ${is}`;
  });
}

function membersOf(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value as Record<string, unknown> : value === null || value === undefined ? {} : { value };
}

const uuid = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** The page of what an action was done to, if there is one. */
export function pageOf({ action, target }: Pick<AuditLine, "action" | "target">): string | undefined {
  if (!target) {
    return undefined;
  }
  switch (action.split(".")[0]) {
    case "job":
      return uuid.test(target) && action !== "job.delete" ? `/jobs/${target}` : undefined;
    case "queue":
      return `/queues/${target}`;
    case "webhook":
      return uuid.test(target) && action !== "webhook.delete" ? `/webhooks/${target}` : undefined;
    default:
      return undefined;
  }
}
