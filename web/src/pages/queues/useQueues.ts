import { useQuery, useQueryClient, type UseQueryResult } from "@tanstack/react-query";
import { queuesQuery } from "../../api/queries";
import type { AnswerOf } from "../../api/client";
import type { Queue } from "../../api/types";
import { usePainted, useServices } from "../../shell/services";
import { useFollow } from "../../store/useFollow";
import { mergeNumbers } from "./queues";

/** Pauses, which the numbers do not tell in full, and workers. */
const watched = { types: ["queue.*", "worker.*"] };

/** The queues with the numbers of now; undefined: nothing was fetched yet. */
export function useQueues(): { queues: Queue[] | undefined; query: UseQueryResult<AnswerOf<"get", "/queues">> } {
  const { api, live } = useServices();
  const client = useQueryClient();
  const query = useQuery(queuesQuery(api));
  const numbers = usePainted(live.numbers);
  const handleChange = (): void => {
    void client.invalidateQueries(queuesQuery(api));
    void client.invalidateQueries({ queryKey: ["workers"] });
  };
  useFollow(query.data?.as_of, watched, { onEvents: handleChange, onGap: handleChange });
  return { queues: query.data && mergeNumbers(query.data.data, numbers), query };
}
