import { Group, Title } from "@mantine/core";
import { useEffect, type JSX, type ReactNode } from "react";

/** The heading of a page, what stands beside it, and the title of the tab. */
export function PageTitle({ title, children }: { title: string; children?: ReactNode }): JSX.Element {
  useEffect(() => { document.title = `${title} · Mini Asynq`; }, [title]);
  return (
    <Group justify="space-between" gap="sm" mb="md">
      <Title order={1}>{title}</Title>
      {children && <Group gap="xs">{children}</Group>}
    </Group>
  );
}
