import { Button, Title } from "@mantine/core";
import { useMemo, useState, type JSX } from "react";
import { CopyButton } from "./CopyButton";
import { formatBytes } from "./format";
import { cut, quote, readJson, type JsonEntry, type JsonNode } from "./json";
import classes from "./JsonView.module.css";

/** What is longer is shown as far as this, and is there whole as a file. */
const maxShown = 200 * 1024;
/** So many entries of an array or an object are drawn; more when somebody asks. */
const entriesAtOnce = 100;
/** What is open at first. */
const openDepth = 3;
const openEntries = 20;

interface JsonViewProps {
  /** "Payload". */
  title: string;
  /** The text of it, as the server sent it. */
  source: string;
  /** What it is called when it is saved. */
  fileName: string;
}

/** JSON to look at: it folds, its numbers are exact, it can be copied and saved. */
export function JsonView({ title, source, fileName }: JsonViewProps): JSX.Element {
  const octets = useMemo(() => new TextEncoder().encode(source).length, [source]);
  const isCut = octets > maxShown;
  const root = useMemo(() => isCut ? undefined : readJson(source), [isCut, source]);
  return (
    <section className={classes["frame"]} aria-label={title}>
      <div className={classes["head"]}>
        <Title order={3}>{title}</Title>
        <span className={classes["size"]}>{formatBytes(octets)}</span>
        <CopyButton text={source} label={`Copy the ${title.toLowerCase()}`} />
        <Button size="compact-xs" variant="subtle" onClick={() => { save(source, fileName); }}>Download</Button>
      </div>
      <div className={classes["text"]} tabIndex={0} role="region" aria-label={`${title}, as JSON`}>
        {root ? <Node node={root} depth={0} /> : cut(source, maxShown)}
      </div>
      {isCut && <div className={classes["note"]}>{`Cut off after ${formatBytes(maxShown)} of ${formatBytes(octets)}. The download and the copy have all of it.`}</div>}
    </section>
  );
}

function Node({ node, depth }: { node: JsonNode; depth: number }): JSX.Element {
  const [isOpen, setOpen] = useState(depth === 0 || (depth < openDepth && node.entries.length <= openEntries));
  const [shown, setShown] = useState(entriesAtOnce);
  if (node.kind === "string" || node.kind === "plain") {
    return <span className={classes[node.kind]}>{node.kind === "string" ? quote(JSON.parse(node.source) as string) : node.source}</span>;
  }
  const [before, after] = node.kind === "object" ? "{}" : "[]";
  if (node.entries.length === 0) {
    return <span>{`${before}${after}`}</span>;
  }
  const left = node.entries.length - shown;
  const isObject = node.kind === "object";
  const count = `${node.entries.length} ${isObject ? (node.entries.length === 1 ? "member" : "members") : (node.entries.length === 1 ? "item" : "items")}`;
  return (
    <>
      <button type="button" className={classes["fold"]} aria-expanded={isOpen} aria-label={isObject ? `Object, ${count}` : `Array, ${count}`}
        onClick={() => { setOpen(!isOpen); }}>{before}{!isOpen && <><span className={classes["soft"]}>{` ${count} `}</span>{after}</>}</button>
      {isOpen && (
        <>
          <div className={classes["entries"]}>
            {node.entries.slice(0, shown).map((entry, i) => <Entry key={i} entry={entry} depth={depth + 1} isLast={i === node.entries.length - 1} />)}
            {left > 0 && <Button size="compact-xs" variant="subtle" onClick={() => { setShown(shown + entriesAtOnce); }}>{`${left} more`}</Button>}
          </div>
          {after}
        </>
      )}
    </>
  );
}

function Entry({ entry: { name, value }, depth, isLast }: { entry: JsonEntry; depth: number; isLast: boolean }): JSX.Element {
  return (
    <div>
      {name !== undefined && <><span className={classes["name"]}>{quote(name)}</span>{": "}</>}
      <Node node={value} depth={depth} />
      {!isLast && ","}
    </div>
  );
}

function save(text: string, name: string): void {
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  // Some browsers read it only after the click has been dealt with.
  setTimeout(() => { URL.revokeObjectURL(address); }, 10_000);
}
