import { Alert, Button, Code, Group, Modal, Stack, Text } from "@mantine/core";
import type { JSX } from "react";
import { CopyButton } from "./CopyButton";

interface SecretOnceProps {
  /** "The key deploy was made" */
  title: string;
  /** What it is for. */
  says: string;
  secret: string;
  onClose: () => void;
}

/** A secret, the only time that it is seen. A click beside the dialog does not close it. */
export function SecretOnce({ title, says, secret, onClose }: SecretOnceProps): JSX.Element {
  return (
    <Modal opened onClose={onClose} title={title} closeOnClickOutside={false} closeOnEscape={false} withCloseButton={false} size="lg">
      <Stack gap="sm">
        <Text size="sm">{says}</Text>
        <Group gap={4} wrap="nowrap">
          <Code block tabIndex={0} data-testid="secret" data-autofocus style={{ flex: 1, minWidth: 0, whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>{secret}</Code>
          <CopyButton text={secret} label="Copy the secret" />
        </Group>
        <Alert color="yellow" variant="light">It is shown this once: the server keeps only a hash of it, or will not say it again. Store it now.</Alert>
        <Group justify="flex-end"><Button onClick={onClose}>I have stored it</Button></Group>
      </Stack>
    </Modal>
  );
}
