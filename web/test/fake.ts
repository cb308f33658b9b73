import type { SocketLike } from "../src/stream/index.js";

type Listener = (event: never) => void;

/** The client's end of a socket whose server is the test. */
export class FakeSocket implements SocketLike {
  readonly sent: Record<string, unknown>[] = [];
  closedWith: number | undefined;
  private readonly listeners = new Map<string, Listener>();

  addEventListener(type: string, listener: Listener): void {
    this.listeners.set(type, listener);
  }

  send(data: string): void {
    this.sent.push(JSON.parse(data) as Record<string, unknown>);
  }

  close(code?: number): void {
    this.closedWith = code ?? 1005;
  }

  say(...frames: (object | string)[]): void {
    for (const frame of frames) {
      this.emit("message", { data: typeof frame === "string" ? frame : JSON.stringify(frame) });
    }
  }

  /** Ends the socket, as the browser tells of it. */
  end(code: number, reason: object | string = ""): void {
    this.emit("close", { code, reason: typeof reason === "string" ? reason : JSON.stringify(reason) });
  }

  greet(head = "3-100"): void {
    this.say({ t: "hello", v: 1, node: "a", epoch: 3, head, floor: "3-2", max_subs: 16, max_batch: 200 });
  }

  /** The frames of one kind that the client sent. */
  frames(t: string): Record<string, unknown>[] {
    return this.sent.filter((frame) => frame.t === t);
  }

  private emit(type: string, event: object): void {
    this.listeners.get(type)?.(event as never);
  }
}

/** An ev frame of a subscription, with events of these numbers. */
export function ev(id: string, upTo: number, ...seqs: number[]): object {
  return {
    t: "ev", id, cursor: `3-${upTo}`,
    ev: seqs.map((seq) => ({ cursor: `3-${seq}`, epoch: 3, seq, type: "job.enqueued", v: 1, data: {} })),
  };
}

/** Lets promises go on. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) {
    await Promise.resolve();
  }
}
