import { ApiProblem, Unreachable, type ProblemDetails } from "./problem";
import type { paths } from "./schema";

type Verb = "get" | "post" | "put" | "patch" | "delete";
type Operation<V extends Verb, P extends keyof paths> = paths[P][V];

/** The addresses that take a verb, as api/openapi.yaml has them. */
export type PathOf<V extends Verb> = { [P in keyof paths]: paths[P][V] extends object ? P : never }[keyof paths];

type PathParameters<O> = O extends { parameters: { path: infer T } } ? T : undefined;
type QueryParameters<O> = O extends { parameters: { query?: infer T } } ? Exclude<T, undefined> : undefined;
type Body<O> = O extends { requestBody?: infer B } ? (Exclude<B, undefined> extends { content: { "application/json": infer T } } ? T : undefined) : undefined;
type JSONOf<R> = R extends { content: { "application/json": infer T } } ? T : undefined;

/** What a call answers: the JSON of its 2xx; undefined where that has none. */
export type AnswerOf<V extends Verb, P extends keyof paths> = Operation<V, P> extends { responses: infer R }
  ? { [S in keyof R]: S extends 200 | 201 | 202 | 204 ? JSONOf<R[S]> : never }[keyof R] : never;

type Optional<T, Name extends string> = [T] extends [undefined] ? { [K in Name]?: never } : { [K in Name]?: T };
type Required<T, Name extends string> = [T] extends [undefined] ? { [K in Name]?: never } : { [K in Name]: T };

export type CallOptions<V extends Verb, P extends keyof paths> =
  & Required<PathParameters<Operation<V, P>>, "path">
  & Optional<QueryParameters<Operation<V, P>>, "query">
  & Optional<Body<Operation<V, P>>, "body">
  & {
    /** Ends the call; TanStack Query hands one to each of its functions. */
    signal?: AbortSignal;
    /** The version that a change is made to: If-Match. */
    version?: number;
    headers?: Readonly<Record<string, string>>;
    /** The body as it goes over the wire, in place of `body`: JSON in which numbers stay as somebody typed them. */
    bodyText?: string;
    /** How long an answer may take, in milliseconds (15000). */
    deadlineMs?: number;
  };

export interface ApiOptions {
  /** In front of /api/v1. */
  basePath: string;
  /** A call was answered 401: whoever sits there has to log in. Not called for the login itself. */
  onUnauthorized: () => void;
  fetch?: typeof fetch;
}

const defaultDeadlineMs = 15_000;

/** Calls the server over REST. Its errors are ApiProblem and Unreachable; a call that its signal ended throws the signal's reason. */
export class Api {
  constructor(private readonly options: ApiOptions) {}

  get<P extends PathOf<"get">>(path: P, options: CallOptions<"get", P>): Promise<AnswerOf<"get", P>> {
    return this.call("get", path, options);
  }

  post<P extends PathOf<"post">>(path: P, options: CallOptions<"post", P>): Promise<AnswerOf<"post", P>> {
    return this.call("post", path, options);
  }

  put<P extends PathOf<"put">>(path: P, options: CallOptions<"put", P>): Promise<AnswerOf<"put", P>> {
    return this.call("put", path, options);
  }

  patch<P extends PathOf<"patch">>(path: P, options: CallOptions<"patch", P>): Promise<AnswerOf<"patch", P>> {
    return this.call("patch", path, options);
  }

  delete<P extends PathOf<"delete">>(path: P, options: CallOptions<"delete", P>): Promise<AnswerOf<"delete", P>> {
    return this.call("delete", path, options);
  }

  /** Like get, with the text of the answer beside it: JSON.parse rounds numbers that are longer than a double holds. */
  async getWithText<P extends PathOf<"get">>(path: P, options: CallOptions<"get", P>): Promise<{ answer: AnswerOf<"get", P>; text: string }> {
    const text = await this.exchange("get", path, options);
    return { answer: parse(text) as AnswerOf<"get", P>, text };
  }

  /** The address of a call, for links and for examples that people copy. */
  address(path: string, parameters: { path?: unknown; query?: unknown } = {}): string {
    return this.options.basePath + addressOf(path, parameters.path, parameters.query);
  }

  private async call<V extends Verb, P extends PathOf<V>>(verb: V, path: P, options: CallOptions<V, P>): Promise<AnswerOf<V, P>> {
    const text = await this.exchange(verb, path, options);
    return (text === "" ? undefined : parse(text)) as AnswerOf<V, P>;
  }

  private async exchange<V extends Verb, P extends PathOf<V>>(verb: V, path: P, options: CallOptions<V, P>): Promise<string> {
    const { body, bodyText = body === undefined ? undefined : JSON.stringify(body), signal, version, deadlineMs = defaultDeadlineMs } = options;
    const headers: Record<string, string> = { Accept: "application/json", ...options.headers };
    if (bodyText !== undefined) {
      headers["Content-Type"] = "application/json";
    }
    if (version !== undefined) {
      headers["If-Match"] = `"v${version}"`;
    }
    const deadline = AbortSignal.timeout(deadlineMs);
    let answer: Response;
    let text: string;
    try {
      answer = await (this.options.fetch ?? fetch)(this.address(path, options), {
        method: verb.toUpperCase(), headers, credentials: "same-origin",
        signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
        ...(bodyText === undefined ? {} : { body: bodyText }),
      });
      text = await answer.text();
    } catch (error) {
      signal?.throwIfAborted();
      throw new Unreachable(error);
    }
    if (!answer.ok) {
      if (answer.status === 401 && path !== "/login") {
        this.options.onUnauthorized();
      }
      throw new ApiProblem(answer.status, detailsOf(text));
    }
    return text;
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Unreachable(error); // a proxy's page, in the server's place
  }
}

/** Lists are joined with commas; the members of an object are parameters of their own, as api/openapi.yaml has them. */
function addressOf(path: string, pathParameters: unknown, query: unknown): string {
  const filled = path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(String((pathParameters as Record<string, unknown>)[name])));
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value === undefined || value === null || (Array.isArray(value) && value.length === 0)) {
      continue;
    }
    if (Array.isArray(value)) {
      search.set(name, value.join(","));
    } else if (typeof value === "object") {
      for (const [member, text] of Object.entries(value as Record<string, unknown>)) {
        search.set(member, String(text));
      }
    } else {
      search.set(name, String(value as string | number | boolean));
    }
  }
  return `/api/v1${filled}${search.size > 0 ? `?${search}` : ""}`;
}

function detailsOf(text: string): Partial<ProblemDetails> {
  try {
    const details: unknown = JSON.parse(text);
    return typeof details === "object" && details !== null ? details : {};
  } catch {
    return {};
  }
}
