// What jsdom lacks and the components use.
import { cleanup } from "@testing-library/react";
import { afterEach } from "vitest";

afterEach(cleanup);

class NoMedia extends EventTarget {
  readonly matches = false;
  readonly onchange = null;

  constructor(readonly media: string) {
    super();
  }

  addListener(): void { /* deprecated */ }
  removeListener(): void { /* deprecated */ }
}

window.matchMedia = (query: string): MediaQueryList => new NoMedia(query);

window.ResizeObserver = class {
  observe(): void { /* nothing has a size in here */ }
  unobserve(): void { /* so nothing changes it */ }
  disconnect(): void { /* and nobody is told */ }
};
