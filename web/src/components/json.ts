/** JSON that is looked at, not reckoned with: numbers stay as they are written, however long. Nothing in here knows React. */

export interface JsonNode {
  readonly kind: "object" | "array" | "string" | "plain";
  /** The text that it is written with. */
  readonly source: string;
  /** Of an object and an array; the members of an object have names. */
  readonly entries: readonly JsonEntry[];
}

export interface JsonEntry {
  readonly name: string | undefined;
  readonly value: JsonNode;
}

interface Open {
  readonly kind: "object" | "array";
  readonly start: number;
  readonly name: string | undefined;
  readonly entries: JsonEntry[];
}

const nothing: readonly JsonEntry[] = [];

/** Reads a text that is JSON; nothing checks that here. It does not recur: a stranger decides how deep a payload is. */
export function readJson(text: string): JsonNode {
  const open: Open[] = [];
  let root: JsonNode = { kind: "plain", source: text, entries: nothing };
  let name: string | undefined; // read, and its value not yet
  const add = (value: JsonNode, as: string | undefined): void => {
    const parent = open.at(-1);
    if (parent) {
      parent.entries.push({ name: as, value });
    } else {
      root = value;
    }
  };
  for (let i = 0; i < text.length;) {
    const sign = text.charAt(i);
    if (sign === "{" || sign === "[") {
      open.push({ kind: sign === "{" ? "object" : "array", start: i, name, entries: [] });
      name = undefined;
      i++;
    } else if (sign === "}" || sign === "]") {
      const closed = open.pop();
      i++;
      if (closed) {
        add({ kind: closed.kind, source: text.slice(closed.start, i), entries: closed.entries }, closed.name);
      }
    } else if (between.has(sign)) {
      i++;
    } else {
      const source = text.slice(i, sign === '"' ? endOfString(text, i) : endOfPlain(text, i));
      i += source.length;
      if (sign === '"' && name === undefined && open.at(-1)?.kind === "object") {
        name = JSON.parse(source) as string;
      } else {
        add({ kind: sign === '"' ? "string" : "plain", source, entries: nothing }, name);
        name = undefined;
      }
    }
  }
  return root;
}

const between = new Set([" ", "\t", "\n", "\r", ",", ":"]);
const ends = new Set([...between, "}", "]"]);

function endOfString(text: string, start: number): number {
  let i = start + 1;
  while (i < text.length && text[i] !== '"') {
    i += text[i] === "\\" ? 2 : 1;
  }
  return i + 1;
}

function endOfPlain(text: string, start: number): number {
  let i = start + 1;
  while (i < text.length && !ends.has(text.charAt(i))) {
    i++;
  }
  return i;
}

/** The text of a member of an object, as it is written; undefined: it has none of that name. */
export function sourceOf(text: string, member: string): string | undefined {
  return readJson(text).entries.find(({ name }) => name === member)?.value.source;
}

/** An object as JSON, with a member whose text is taken as it is. */
export function withSource(members: Readonly<Record<string, unknown>>, name: string, source: string): string {
  const text = JSON.stringify(members);
  return `${text.slice(0, -1)}${text === "{}" ? "" : ","}${JSON.stringify(name)}:${source}}`;
}

// These turn the order of what follows around, so that a text seems to be another one.
const turning = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** A string between quotes, to be read: without escapes that need not be, and with all that would not be seen. */
export function quote(text: string): string {
  return JSON.stringify(text).replace(turning, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** The longest beginning of a text that has so many octets in UTF-8; the text itself if it fits. */
export function cut(text: string, octets: number): string {
  const encoded = new TextEncoder().encode(text);
  return encoded.length <= octets ? text : new TextDecoder().decode(encoded.subarray(0, octets), { stream: true });
}

/** An argument for a shell, whatever is in it. */
export function shellWord(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
