import type { Key, NewKey, Role, Scope } from "../../api/types";

export const scopes = ["enqueue", "work", "read", "read:payload", "operate", "admin"] as const satisfies readonly Scope[];
export const roles = ["viewer", "operator", "admin"] as const satisfies readonly Role[];

/** What a scope lets somebody do. */
export const scopeWords: Readonly<Record<Scope, string>> = {
  enqueue: "add jobs", work: "claim jobs and report on them", read: "see jobs, queues, events and numbers", "read:payload": "see payloads, results and stacks",
  operate: "retry, cancel, pause", admin: "everything, and keys, webhooks and the audit log",
};

/** When a key ends, as a choice. */
export const ends = { "": "never", "7": "in a week", "30": "in 30 days", "90": "in 90 days", "365": "in a year" } as const;

export interface KeyForm {
  readonly name: string;
  /** Empty: the scopes are chosen one by one. */
  readonly role: Role | "";
  readonly scopes: readonly Scope[];
  /** Names with commas or spaces between; empty: all queues. */
  readonly queues: string;
  /** Days; empty: never. */
  readonly end: string;
}

export function toNewKey(form: KeyForm, nowMs: number): NewKey {
  const queues = form.queues.split(/[\s,]+/).filter((name) => name !== "");
  return {
    name: form.name.trim(),
    ...(form.role === "" ? { scopes: [...form.scopes] } : { role: form.role }),
    ...(queues.length > 0 ? { queues } : {}),
    ...(form.end === "" ? {} : { expires_at: new Date(nowMs + Number(form.end) * 86_400_000).toISOString() }),
  };
}

/** Why the form cannot be sent yet; undefined: it can. */
export function lackOf(form: KeyForm): string | undefined {
  if (form.name.trim() === "") {
    return "The key needs a name.";
  }
  return form.role === "" && form.scopes.length === 0 ? "Choose a role, or at least one scope." : undefined;
}

/** "operator" or "enqueue, work". */
export function rightsOf({ role, scopes: held }: Pick<Key, "role" | "scopes">): string {
  return role ?? held.join(", ");
}

export function isExpired({ expires_at: at }: Pick<Key, "expires_at">, nowMs: number): boolean {
  return at !== null && Date.parse(at) <= nowMs;
}
