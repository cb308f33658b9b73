import { Skeleton, Stack } from "@mantine/core";
import type { JSX } from "react";

/** Where rows will be. */
export function RowsSkeleton({ rows = 8 }: { rows?: number }): JSX.Element {
  return (
    <Stack gap={8} aria-busy="true" role="status" aria-label="Loading">
      {Array.from({ length: rows }, (_, i) => <Skeleton key={i} height={24} radius="sm" />)}
    </Stack>
  );
}
