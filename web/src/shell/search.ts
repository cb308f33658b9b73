/** The search part of an address, as pages have it: plain strings, readable in the address bar. */
export type Search = Readonly<Record<string, string>>;

/** Reads a search part; of a name that is there twice the last one counts. */
export function parseSearch(text: string): Search {
  return Object.fromEntries(new URLSearchParams(text));
}

/** Writes one; empty members are left out. Commas and colons stay as they are. */
export function formatSearch(search: Readonly<Record<string, unknown>>): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(search)) {
    if (typeof value === "string" && value !== "") {
      parameters.set(name, value);
    }
  }
  const text = parameters.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
  return text === "" ? "" : `?${text}`;
}

/** Where the login leads back to: a page of this dashboard, and nothing else. */
export function wayBack(from: string | undefined): string {
  return from !== undefined && /^\/(?![/\\])/.test(from) && !from.startsWith("/login") ? from : "/";
}
