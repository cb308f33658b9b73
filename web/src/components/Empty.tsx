import { Stack, Text } from "@mantine/core";
import type { JSX, ReactNode } from "react";
import { Command } from "./Command";

/** Nothing is there: says so, and how to change that. */
export function Empty({ title, children, command }: { title: string; children?: ReactNode; command?: string }): JSX.Element {
  return (
    <Stack gap="xs" p="lg" maw={640}>
      <Text fw={600}>{title}</Text>
      {children && <Text c="dimmed">{children}</Text>}
      {command && <Command text={command} />}
    </Stack>
  );
}
