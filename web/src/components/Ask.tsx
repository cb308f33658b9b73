import { Button, Group, Modal, Stack, Text, TextInput } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useState, type JSX, type ReactNode, type SubmitEvent } from "react";
import { Failed } from "./Failed";

interface AskProps {
  /** A question: "Pause mail?" */
  title: string;
  /** What the button says, and what will happen. */
  action: string;
  /** What is lost or stopped by it; the button warns. */
  isDangerous?: boolean;
  /** What follows from it, in a sentence. */
  says?: string;
  /** Fields of the question, if it has any. */
  children?: ReactNode;
  /** The action takes no reason. */
  hasNoReason?: boolean;
  /** The fields are not filled in so that it could be tried. */
  isDisabled?: boolean;
  run: (body: { reason?: string }) => Promise<unknown>;
  onDone?: () => void;
  onClose: () => void;
}

/** Asks before something is done, and why. It stays until the server has done it or somebody leaves it. */
export function Ask({ title, action, isDangerous = false, says, children, hasNoReason = false, isDisabled = false, run, onDone, onClose }: AskProps): JSX.Element {
  const [reason, setReason] = useState("");
  const done = useMutation({
    mutationFn: () => run(reason.trim() === "" ? {} : { reason: reason.trim() }),
    onSuccess: () => {
      onDone?.();
      onClose();
    },
  });
  const handleSubmit = (event: SubmitEvent): void => {
    event.preventDefault();
    if (!done.isPending && !isDisabled) {
      done.mutate();
    }
  };
  return (
    <Modal opened onClose={onClose} title={title} closeButtonProps={{ "aria-label": "Close" }}>
      <form onSubmit={handleSubmit}>
        <Stack gap="sm">
          {says && <Text size="sm">{says}</Text>}
          {children}
          {!hasNoReason && (
            <TextInput label="Reason" description="For the audit log; may be left empty." maxLength={256} value={reason}
              {...(children ? {} : { "data-autofocus": true })} onChange={(event) => { setReason(event.currentTarget.value); }} />
          )}
          {done.error && <Failed error={done.error} what="It was not done" />}
          <Group justify="flex-end" gap="xs">
            <Button variant="default" onClick={onClose}>Leave it</Button>
            <Button type="submit" {...(isDangerous ? { color: "red.8" } : {})} loading={done.isPending} disabled={isDisabled}>{action}</Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
