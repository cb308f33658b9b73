/** Calls back before the browser paints next; a test calls back when it likes. */
export type NextFrame = (draw: () => void) => void;

/** In a hidden tab no frame comes, and nothing is drawn. */
export const nextFrame: NextFrame = (draw) => { requestAnimationFrame(draw); };

/**
 * State outside React that is shown through useSyncExternalStore. However often it changes, what is shown changes once per
 * frame: draw() makes an immutable value out of the state, and get() is that value until the next frame.
 */
export abstract class Painted<T> {
  private readonly listeners = new Set<() => void>();
  private isPending = false;

  constructor(private shown: T, private readonly frames: NextFrame = nextFrame) {}

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => { this.listeners.delete(listener); };
  };

  readonly get = (): T => this.shown;

  /** The state has changed. */
  protected touch(): void {
    if (this.isPending) {
      return;
    }
    this.isPending = true;
    this.frames(() => {
      this.isPending = false;
      this.shown = this.draw();
      for (const listener of [...this.listeners]) {
        listener();
      }
    });
  }

  protected abstract draw(): T;
}

/** The simplest of them: a value that is replaced. */
export class Cell<T> extends Painted<T> {
  constructor(private value: T, frames?: NextFrame) {
    super(value, frames);
  }

  /** The value as it is, painted or not. */
  get current(): T {
    return this.value;
  }

  set(value: T): void {
    if (!Object.is(value, this.value)) {
      this.value = value;
      this.touch();
    }
  }

  protected override draw(): T {
    return this.value;
  }
}
