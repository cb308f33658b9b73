/** Why a subscription, or the whole stream, has ended for good. */
export type StreamError =
  | CursorExpiredError | EpochChangedError | HoleError | RefusedError | ClosedError | ProtocolError;

/** The events after the cursor are no longer kept; floor is the oldest cursor that works. Take a snapshot. */
export class CursorExpiredError extends Error {
  override readonly name = "CursorExpiredError";

  constructor(readonly cursor: string, readonly floor: string) {
    super(`the events after ${cursor} are no longer kept; the oldest cursor that works is ${floor}`);
  }
}

/** The history of the cursor was lost or restored. Take a snapshot. */
export class EpochChangedError extends Error {
  override readonly name = "EpochChangedError";

  /** @param head of the present history, where it is known. */
  constructor(readonly cursor: string, readonly head: string | undefined) {
    super(`the history of cursor ${cursor} was lost or restored`);
  }
}

/** What lies between two cursors did not come, though the server says that it has sent it. */
export class HoleError extends Error {
  override readonly name = "HoleError";

  constructor(readonly after: string, readonly got: string) {
    super(`events are missing: after ${after} came ${got}`);
  }
}

/** The server does not take the subscription, or the numbers that were asked for. */
export class RefusedError extends Error {
  override readonly name = "RefusedError";

  constructor(readonly code: string, detail: string) {
    super(detail || code);
  }
}

/** The server closed the socket, and coming back is of no use. 4401: the login has ended. 4403: a right was taken away. */
export class ClosedError extends Error {
  override readonly name = "ClosedError";

  constructor(readonly code: number, readonly reason: string) {
    super(`the server closed the socket: ${code} ${reason}`.trimEnd());
  }
}

/** The other side does not speak the protocol. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
}
