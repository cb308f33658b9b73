import { Button } from "@mantine/core";
import type { JSX } from "react";

/** The next page of a list, if there is one. */
export function MoreButton({ list }: { list: { hasNextPage: boolean; isFetchingNextPage: boolean; fetchNextPage: () => Promise<unknown> } }): JSX.Element | null {
  return list.hasNextPage ? (
    <Button size="compact-sm" variant="default" mb="md" loading={list.isFetchingNextPage} onClick={() => { void list.fetchNextPage(); }}>Load more</Button>
  ) : null;
}
