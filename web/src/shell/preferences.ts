import { useSyncExternalStore } from "react";
import type { TimeZoneChoice } from "../components/format";

export interface Preferences {
  readonly zone: TimeZoneChoice;
}

const storageKey = "miniasynq-preferences";

/** What this browser remembers of how somebody likes to see things; the theme is Mantine's to remember. */
class PreferenceStore {
  private now: Preferences = read();
  private readonly listeners = new Set<() => void>();

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => { this.listeners.delete(listener); };
  };

  readonly get = (): Preferences => this.now;

  set(changed: Partial<Preferences>): void {
    this.now = { ...this.now, ...changed };
    try {
      localStorage.setItem(storageKey, JSON.stringify(this.now));
    } catch {
      // Storage may be forbidden or full; then it is forgotten with the page.
    }
    for (const listener of this.listeners) {
      listener();
    }
  }
}

function read(): Preferences {
  try {
    const stored = JSON.parse(localStorage.getItem(storageKey) ?? "{}") as Partial<Preferences> | null;
    return { zone: stored?.zone === "local" ? "local" : "utc" };
  } catch {
    return { zone: "utc" };
  }
}

export const preferences = new PreferenceStore();

export function usePreferences(): Preferences {
  return useSyncExternalStore(preferences.subscribe, preferences.get);
}
