import type { Me, Scope } from "./types";

/** Whether the caller holds a scope. It decides what is offered; the server decides what is done. */
export function can(me: Me, scope: Scope): boolean {
  return me.scopes.includes("admin") || me.scopes.includes(scope);
}

/** Nobody has logged in. */
export function isAnonymous(me: Me): boolean {
  return me.role === null && me.name === "anonymous";
}
