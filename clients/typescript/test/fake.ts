import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";

export interface Seen {
  method: string;
  path: string;
  headers: IncomingMessage["headers"];
  body: unknown;
}

/** What the fake server does with a call; undefined hangs up without an answer. */
export type Reply = { status: number; body?: unknown; headers?: Record<string, string> } | undefined;

/** A server whose answers a test makes up. */
export class Fake {
  readonly calls: Seen[] = [];
  private readonly waiting: { matches: (call: Seen) => boolean; found: (call: Seen) => void }[] = [];
  private readonly server = createServer((request, response) => void this.serve(request, response));

  private constructor(private readonly answer: (call: Seen) => Reply | Promise<Reply>) {}

  static async start(answer: (call: Seen) => Reply | Promise<Reply>): Promise<Fake> {
    const fake = new Fake(answer);
    fake.server.listen(0, "127.0.0.1");
    await once(fake.server, "listening");
    return fake;
  }

  get url(): string {
    const address = this.server.address() as AddressInfo;
    return `http://127.0.0.1:${address.port}`;
  }

  /** The first call that matches, from the beginning. */
  async call(what: string, matches: (call: Seen) => boolean): Promise<Seen> {
    return this.calls.find(matches) ?? within(what, new Promise((found) => this.waiting.push({ matches, found })));
  }

  async close(): Promise<void> {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, "close");
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const text = (await request.toArray()).join("");
    const call: Seen = {
      method: request.method ?? "", path: request.url ?? "", headers: request.headers,
      body: text === "" ? undefined : JSON.parse(text),
    };
    this.calls.push(call);
    for (const one of this.waiting.filter((w) => w.matches(call))) {
      one.found(call);
    }
    const reply = await this.answer(call);
    if (!reply) {
      response.destroy();
      return;
    }
    response.writeHead(reply.status, { "Content-Type": "application/json", ...reply.headers });
    response.end(reply.body === undefined ? undefined : JSON.stringify(reply.body));
  }
}

/** A deadline for what a test waits for. */
export async function within<T>(what: string, promise: Promise<T>, ms = 5000): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export const problem = (status: number, code: string, detail = "so it is"): Reply => ({
  status, body: { status, code, detail, request_id: "r1" }, headers: { "Content-Type": "application/problem+json" },
});

export const jobBody = (over: Record<string, unknown> = {}): Record<string, unknown> => ({
  id: "j1", queue: "default", kind: "k", priority: "normal", status: "completed", reason: null, max_retries: 3, attempt: 1,
  attempts_left: 3, snoozes: 0, run_at: "2026-01-01T00:00:00Z", tags: [], metadata: {}, locked_by: null, progress: null,
  error: null, version: 3, created_at: "2026-01-01T00:00:00Z", started_at: null, finished_at: null, ...over,
});
