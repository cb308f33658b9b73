import { Button, Group, Modal, Stack, TextInput } from "@mantine/core";
import { useState, type JSX, type ReactNode, type SubmitEvent } from "react";
import { Failed } from "./Failed";

/** Above so many jobs somebody types their number before anything happens to them. */
export const typedAbove = 1000;

interface AskModalProps {
  /** The question. */
  title: string;
  /** On the button that does it: a verb and what it is done to. */
  doIt: string;
  isDangerous: boolean;
  isPending: boolean;
  error: Error | null;
  /** Said when it was refused: "The job was not cancelled". */
  failed: string;
  /** How many are concerned; above typedAbove that has to be typed. Undefined: not known yet, and nothing can be done. */
  count?: number | undefined;
  /** What happens takes no reason. */
  hasNoReason?: boolean;
  /** The fields among the children are not filled in so that it could be tried. */
  isDisabled?: boolean;
  onDo: (reason: string) => void;
  onClose: () => void;
  children?: ReactNode;
}

/** Asks before something happens on the server, and for the reason, which goes into the audit log. */
export function AskModal({ title, doIt, isDangerous, isPending, error, failed, count, hasNoReason = false, isDisabled = false, onDo, onClose, children }: AskModalProps): JSX.Element {
  const [reason, setReason] = useState("");
  const [typed, setTyped] = useState("");
  const isTyped = count === undefined || count <= typedAbove || typed.replace(/[\s,.]/g, "") === String(count);
  const handleSubmit = (event: SubmitEvent): void => {
    event.preventDefault();
    if (isTyped && !isPending && !isDisabled) {
      onDo(reason.trim());
    }
  };
  return (
    <Modal opened onClose={onClose} title={title} closeButtonProps={{ "aria-label": "Close" }}>
      <form onSubmit={handleSubmit}>
        <Stack gap="sm">
          {children}
          {!hasNoReason && (
            <TextInput label="Reason" description="For the audit log; may be left empty." maxLength={256} value={reason} data-autofocus
              onChange={(event) => { setReason(event.currentTarget.value); }} />
          )}
          {count !== undefined && count > typedAbove && (
            <TextInput label={`Type ${count} to go on`} inputMode="numeric" autoComplete="off" value={typed} onChange={(event) => { setTyped(event.currentTarget.value); }} />
          )}
          {error && <Failed error={error} what={failed} />}
          <Group justify="flex-end" gap="xs">
            <Button variant="default" onClick={onClose}>Leave it</Button>
            <Button type="submit" {...(isDangerous ? { color: "red.8" } : {})} loading={isPending} disabled={!isTyped || isDisabled}>{doIt}</Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
