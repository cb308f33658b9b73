import { Code, Group } from "@mantine/core";
import type { JSX } from "react";
import { CopyButton } from "./CopyButton";

/** A command for a terminal, to copy. */
export function Command({ text }: { text: string }): JSX.Element {
  return (
    <Group gap={4} wrap="nowrap" align="flex-start">
      <Code block tabIndex={0} style={{ flex: 1, minWidth: 0, whiteSpace: "pre-wrap" }}>{text}</Code>
      <CopyButton text={text} label="Copy the command" />
    </Group>
  );
}
