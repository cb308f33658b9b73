import { useEffect, useEffectEvent, useRef } from "react";
import { useServices } from "../shell/services";
import type { Filter, StreamEvent } from "../stream";
import type { Following } from "./live";

export interface FollowHandlers {
  onEvents?: (events: readonly StreamEvent[]) => void;
  onGap: () => void;
}

/**
 * Follows the stream in class view while the component is there, from the cursor that asOf has at first. Later values are of later
 * snapshots: they only matter when the history had come to an end. Undefined: nothing is on the screen yet, and nothing followed.
 */
export function useFollow(asOf: string | undefined, filter: Filter, handlers: FollowHandlers): void {
  const { live } = useServices();
  const following = useRef<Following>(undefined);
  const handleEvents = useEffectEvent((events: readonly StreamEvent[]) => { handlers.onEvents?.(events); });
  const handleGap = useEffectEvent(() => { handlers.onGap(); });
  const firstAsOf = useEffectEvent(() => asOf);
  const filterText = JSON.stringify(filter);
  const isReady = asOf !== undefined;
  useEffect(() => {
    if (!isReady) {
      return undefined;
    }
    const followed = live.follow({
      after: firstAsOf(), filter: JSON.parse(filterText) as Filter,
      onEvents: (events) => { handleEvents(events); }, onGap: () => { handleGap(); },
    });
    following.current = followed;
    return () => { followed.close(); };
  }, [live, filterText, isReady]);
  useEffect(() => {
    if (asOf !== undefined) {
      following.current?.resumeAfter(asOf);
    }
  }, [asOf]);
}
