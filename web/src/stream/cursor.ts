/** A place in the log. As a cursor it means "after this event". */
export interface Position {
  readonly epoch: number;
  readonly seq: number;
}

/** Reads a cursor; undefined: it is none. Positions stay below what a number holds exactly. */
export function parseCursor(text: unknown): Position | undefined {
  const match = typeof text === "string" ? /^(0|[1-9]\d{0,15})-(0|[1-9]\d{0,15})$/.exec(text) : null;
  if (!match) {
    return undefined;
  }
  const at = { epoch: Number(match[1]), seq: Number(match[2]) };
  return Number.isSafeInteger(at.epoch) && Number.isSafeInteger(at.seq) ? at : undefined;
}

export function formatCursor(at: Position): string {
  return `${at.epoch}-${at.seq}`;
}
