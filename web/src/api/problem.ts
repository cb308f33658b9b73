import type { components } from "./schema";

export type ProblemDetails = components["schemas"]["ProblemDetails"];
export type ProblemCode = ProblemDetails["code"];

/** The server has refused a call, and says why. */
export class ApiProblem extends Error {
  override readonly name = "ApiProblem";

  /** @param details are empty where something in between has answered in the server's place. */
  constructor(readonly status: number, readonly details: Partial<ProblemDetails>) {
    super(details.detail ?? details.title ?? `the server answered ${status}`);
  }

  get code(): ProblemCode | undefined {
    return this.details.code;
  }

  get requestId(): string | undefined {
    return this.details.request_id;
  }

  /** The same call may succeed later, without a change to it. */
  get isPassing(): boolean {
    return this.status === 429 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

/** No answer came: the network, the server or the patience of the caller has ended. */
export class Unreachable extends Error {
  override readonly name = "Unreachable";

  constructor(override readonly cause: unknown) {
    super("the server cannot be reached");
  }
}
