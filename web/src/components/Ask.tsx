import { Text } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import type { JSX, ReactNode } from "react";
import { AskModal } from "./AskModal";

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

/** AskModal with what is done after it: it stays until the server has done it or somebody leaves it. */
export function Ask({ title, action, isDangerous = false, says, children, hasNoReason, isDisabled, run, onDone, onClose }: AskProps): JSX.Element {
  const done = useMutation({
    mutationFn: (reason: string) => run(reason === "" ? {} : { reason }),
    onSuccess: () => {
      onDone?.();
      onClose();
    },
  });
  return (
    <AskModal title={title} doIt={action} isDangerous={isDangerous} isPending={done.isPending} error={done.error} failed="It was not done"
      {...(hasNoReason === undefined ? {} : { hasNoReason })} {...(isDisabled === undefined ? {} : { isDisabled })} onDo={done.mutate} onClose={onClose}>
      {says && <Text size="sm">{says}</Text>}
      {children}
    </AskModal>
  );
}
