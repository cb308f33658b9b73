/** What the server has put into the page. */
export interface PageConfig {
  /** In front of every address of the server: "" or "/jobs". */
  readonly basePath: string;
  /** This is a development set-up: the documented password is valid from everywhere. */
  readonly isDev: boolean;
  /** Styles that scripts add carry it, or the content security policy drops them. */
  readonly nonce: string;
}

/** Reads the configuration out of the page. An Error: the page is not one of this server's. */
export function readConfig(page: Document): PageConfig {
  const raw: unknown = JSON.parse(page.getElementById("config")?.textContent ?? "null");
  if (typeof raw !== "object" || raw === null) {
    throw new Error("read configuration: the page holds none");
  }
  const { base_path: basePath, dev, nonce } = raw as Record<string, unknown>;
  if (typeof basePath !== "string" || typeof dev !== "boolean" || typeof nonce !== "string") {
    throw new Error("read configuration: it is not what the server writes");
  }
  return { basePath, isDev: dev, nonce };
}
