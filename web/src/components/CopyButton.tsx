import { ActionIcon, Tooltip } from "@mantine/core";
import { useEffect, useState, type JSX } from "react";
import { copyText } from "./copy";
import { Icon } from "./Icon";

/** Copies a text; label says what it is: "Copy the id". */
export function CopyButton({ text, label }: { text: string; label: string }): JSX.Element {
  const [outcome, setOutcome] = useState<"copied" | "failed" | undefined>();
  useEffect(() => {
    if (!outcome) {
      return undefined;
    }
    const timer = setTimeout(() => { setOutcome(undefined); }, 1500);
    return () => { clearTimeout(timer); };
  }, [outcome]);
  const said = outcome === "copied" ? "Copied" : outcome === "failed" ? "The browser does not let this page copy" : label;
  const handleClick = (): void => {
    void copyText(text).then((isCopied) => { setOutcome(isCopied ? "copied" : "failed"); });
  };
  return (
    <Tooltip label={said}>
      <ActionIcon variant="subtle" color="gray" size="sm" aria-label={said} onClick={handleClick}>
        <Icon name={outcome === "copied" ? "check" : "copy"} size={14} />
      </ActionIcon>
    </Tooltip>
  );
}
