import { beforeEach, expect, test, vi } from "vitest";
import { ev, FakeSocket, settle } from "../../test/fake";
import { newJob } from "../testing/model";
import { Live } from "./live";

let sockets: FakeSocket[];
let live: Live;
const onDoubt = vi.fn();

beforeEach(() => {
  sockets = [];
  onDoubt.mockReset();
  live = new Live({
    url: "ws://server/api/v1/ws", onDoubt, frames: (draw) => { draw(); }, firstPauseMs: 0,
    open: () => {
      const socket = new FakeSocket();
      sockets.push(socket);
      return socket;
    },
  });
});

/** The newest socket. */
function socket(): FakeSocket {
  const newest = sockets.at(-1);
  if (!newest) {
    throw new Error("there is no socket");
  }
  return newest;
}

async function open(): Promise<void> {
  live.start();
  socket().greet();
  await settle();
}

test("while it is paused nothing is subscribed, and going on resumes from the cursor", async () => {
  await open();
  const onEvents = vi.fn();
  live.follow({ after: "3-90", onEvents, onGap: vi.fn() });
  await settle();
  const [first] = socket().frames("sub");
  expect(first).toMatchObject({ class: "view", after: "3-90" });
  socket().say({ t: "subbed", id: first?.["id"], cursor: "3-90", behind: 0 }, ev(String(first?.["id"]), 97, 95, 97));
  expect(onEvents).toHaveBeenCalledTimes(1);
  live.pause("selection", true);
  live.pause("hidden", true);
  live.pause("selection", false);
  await settle();
  expect(socket().frames("unsub")).toHaveLength(1);
  expect(socket().frames("stats").at(-1)).toMatchObject({ every: "0s" });
  expect(socket().frames("sub")).toHaveLength(1);
  live.pause("hidden", false);
  await settle();
  expect(socket().frames("sub")[1]).toMatchObject({ after: "3-97" });
  expect(socket().frames("stats").at(-1)).toMatchObject({ every: "1000ms" });
});

test("where history has ended the next snapshot says from where it goes on, and no other does", async () => {
  await open();
  const onGap = vi.fn();
  const following = live.follow({ after: "3-90", onGap });
  await settle();
  const [first] = socket().frames("sub");
  following.resumeAfter("3-200");
  await settle();
  expect(socket().frames("sub")).toHaveLength(1);
  socket().say({ t: "ended", id: first?.["id"], code: "cursor_expired", floor: "3-150" });
  expect(onGap).toHaveBeenCalledTimes(1);
  following.resumeAfter("3-210");
  await settle();
  expect(socket().frames("sub")[1]).toMatchObject({ after: "3-210" });
});

test("a skip is a gap, and events of anybody's subscription reach the rows", async () => {
  await open();
  live.rows.retain([newJob("a")]);
  const onGap = vi.fn();
  live.follow({ after: "3-90", onGap });
  await settle();
  const id = socket().frames("sub")[0]?.["id"];
  socket().say({ t: "subbed", id, cursor: "3-90", behind: 0 }, {
    t: "ev", id, cursor: "3-95", ev: [{
      cursor: "3-95", epoch: 3, seq: 95, type: "job.started", v: 1, timestamp: "2026-03-01T12:00:01.000000Z", queue: "mail", kind: "k", job_id: "a",
      job_version: 2, status: "running", priority: "normal", attempt: 1, worker: "w1", tags: [], workflow_id: null, actor: null, data: { fence: 7 },
    }],
  }, { t: "skip", id, from: "3-95", cursor: "3-4000", n: 3905 });
  expect(live.rows.get().get("a")?.job).toMatchObject({ status: "running", locked_by: "w1", version: 2 });
  expect(onGap).toHaveBeenCalledTimes(1);
});

test("a login that has ended is said, and the login is looked at", async () => {
  await open();
  expect(live.line.get()).toMatchObject({ state: "open", node: "a" });
  socket().end(4401, { code: "unauthorized" });
  expect(live.line.get()).toMatchObject({ state: "ended", reason: "login" });
  expect(onDoubt).toHaveBeenCalledTimes(1);
  live.retryNow();
  expect(sockets).toHaveLength(2);
});

test("who stops takes everything along, and a start begins anew", async () => {
  await open();
  live.follow({ after: "3-90", onGap: vi.fn() });
  await settle();
  live.stop();
  expect(socket().closedWith).toBe(1000);
  expect(socket().frames("unsub")).toHaveLength(0);
  expect(live.line.get().state).toBe("off");
  live.start();
  socket().greet();
  await settle();
  expect(sockets).toHaveLength(2);
  expect(socket().frames("sub")).toHaveLength(1);
});
