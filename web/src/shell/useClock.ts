import { useSyncExternalStore } from "react";
import { clock } from "./clock";

/** The database's time, once a second, in milliseconds: all that is relative is relative to it. */
export function useClock(): number {
  return useSyncExternalStore(clock.subscribe, clock.get);
}
