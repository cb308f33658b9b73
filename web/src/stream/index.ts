// The event stream of a server, for the pages of the dashboard: one socket, any number of subscriptions up to 16, each of
// which is taken up again where it was after whatever breaks the line. No framework in here, and nothing of the page.
export { EventStream, type StreamOptions, type SocketLike, type StreamState } from "./stream.js";
export type { ConsumerOptions, Skipped, Subscription, ViewOptions } from "./subscription.js";
export {
  ClosedError, CursorExpiredError, EpochChangedError, HoleError, ProtocolError, RefusedError, type StreamError,
} from "./errors.js";
export type { Filter, Stats, StreamEvent } from "./frames.js";
