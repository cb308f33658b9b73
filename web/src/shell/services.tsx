import { createContext, use, useSyncExternalStore } from "react";
import type { QueryClient } from "@tanstack/react-query";
import type { Api } from "../api/client";
import type { Me } from "../api/types";
import type { PageConfig } from "../config";
import type { Live } from "../store/live";
import type { Painted } from "../store/painted";
import type { Keys } from "./keys";

/** What there is one of, made in main.tsx. */
export interface Services {
  readonly config: PageConfig;
  readonly api: Api;
  readonly queries: QueryClient;
  readonly live: Live;
  readonly keys: Keys;
}

export const ServicesContext = createContext<Services | undefined>(undefined);
export const MeContext = createContext<Me | undefined>(undefined);

export function useServices(): Services {
  const services = use(ServicesContext);
  if (!services) {
    throw new Error("use services: outside of the dashboard");
  }
  return services;
}

/** Who looks. Pages are drawn only once that is known. */
export function useMe(): Me {
  const me = use(MeContext);
  if (!me) {
    throw new Error("use me: outside of the shell");
  }
  return me;
}

/** What is painted of a store, drawn again once a frame when it changes. */
export function usePainted<T>(store: Painted<T>): T {
  return useSyncExternalStore(store.subscribe, store.get);
}
