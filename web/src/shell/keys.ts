/** What a key does. */
export interface KeyBinding {
  /** One key as KeyboardEvent.key has it, or two after each other: "j", "?", "g o". */
  readonly keys: string;
  /** For the help: "Next row". */
  readonly does: string;
  readonly run: () => void;
}

export interface KeyPress {
  readonly key: string;
  readonly ctrlKey: boolean;
  readonly metaKey: boolean;
  readonly altKey: boolean;
  readonly target: EventTarget | null;
}

const sequenceMs = 1200;

/** The keys of the page. They are silent inside fields and dialogs, and with other modifiers than shift. */
export class Keys {
  private bindings: readonly KeyBinding[] = [];
  private first: { key: string; atMs: number } | undefined;

  /** Binds keys until the function that it returns is called; a page's win over those of the shell, which came before. */
  bind(bindings: readonly KeyBinding[]): () => void {
    this.bindings = [...bindings, ...this.bindings];
    return () => { this.bindings = this.bindings.filter((binding) => !bindings.includes(binding)); };
  }

  /** Those that work now, for the help. */
  list(): readonly KeyBinding[] {
    const seen = new Set<string>();
    return this.bindings.filter(({ keys }) => !seen.has(keys) && seen.add(keys));
  }

  /** Does what the key is bound to, and says whether it was bound. */
  press(press: KeyPress, nowMs: number): boolean {
    if (press.ctrlKey || press.metaKey || press.altKey || isTyping(press.target)) {
      this.first = undefined;
      return false;
    }
    const { first } = this;
    this.first = undefined;
    const both = first && nowMs - first.atMs < sequenceMs ? `${first.key} ${press.key}` : undefined;
    const found = this.bindings.find(({ keys }) => keys === both) ?? this.bindings.find(({ keys }) => keys === press.key);
    if (found) {
      found.run();
      return true;
    }
    if (this.bindings.some(({ keys }) => keys.startsWith(`${press.key} `))) {
      this.first = { key: press.key, atMs: nowMs };
    }
    return false;
  }
}

function isTyping(target: EventTarget | null): boolean {
  return target instanceof Element &&
    target.closest("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable=true], [role=dialog], [role=menu]") !== null;
}
