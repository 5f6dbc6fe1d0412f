/** A part of a terminal that is painted over again and again: styled text, wrapped to the terminal's width. */

import { setTimeout } from "node:timers/promises";

/** Text in one style; a style wraps text in escape sequences. */
export interface Chunk {
  text: string;
  style: (text: string) => string;
}

/** The terminal columns of one grapheme. */
export function columns(grapheme: string): number {
  const code = grapheme.codePointAt(0) ?? 0;
  if (/^[\p{Mn}\p{Me}\p{Cf}\p{Cc}]/u.test(grapheme)) return 0;
  if (/\p{Emoji_Presentation}|\u{fe0f}/u.test(grapheme)) return 2;
  return isWide(code) ? 2 : 1;
}

/** East Asian wide and full-width blocks. */
function isWide(code: number): boolean {
  return (
    (code >= 0x1100 && code <= 0x115f) ||
    (code >= 0x2e80 && code <= 0xa4cf) ||
    (code >= 0xac00 && code <= 0xd7a3) ||
    (code >= 0xf900 && code <= 0xfaff) ||
    (code >= 0xfe30 && code <= 0xfe6f) ||
    (code >= 0xff00 && code <= 0xff60) ||
    (code >= 0xffe0 && code <= 0xffe6) ||
    (code >= 0x20000 && code <= 0x3fffd)
  );
}

interface Cell {
  grapheme: string;
  width: number;
  style: Chunk["style"];
}

const segmenter = new Intl.Segmenter("en", { granularity: "grapheme" });

function cellsOf(chunks: readonly Chunk[]): Cell[] {
  return chunks.flatMap(({ text, style }) =>
    Array.from(segmenter.segment(text.replaceAll("\t", "  ").replaceAll("\r", "")), ({ segment: grapheme }) => {
      return { grapheme, width: columns(grapheme), style };
    }),
  );
}

/** Lines of at most `width` columns; breaks after spaces where there are any. */
export function wrap(chunks: readonly Chunk[], width: number): string[] {
  const lines: string[] = [];
  let line: Cell[] = [];
  let used = 0;
  const end = (count: number): void => {
    lines.push(paint(line.slice(0, count)));
    line = line.slice(count);
    used = line.reduce((sum, cell) => sum + cell.width, 0);
  };
  for (const cell of cellsOf(chunks)) {
    if (cell.grapheme === "\n") {
      end(line.length);
      continue;
    }
    if (used + cell.width > width) end(breakAt(line, cell));
    line.push(cell);
    used += cell.width;
  }
  lines.push(paint(line));
  return lines;
}

/** After the last space; when the next cell is one, or there is none, after everything. */
function breakAt(line: readonly Cell[], next: Cell): number {
  if (next.grapheme === " ") return line.length;
  const space = line.findLastIndex(({ grapheme }) => grapheme === " ");
  return space < 0 ? line.length : space + 1;
}

/** Neighbours of one style share their escape sequences. */
function paint(cells: readonly Cell[]): string {
  let text = "";
  for (let i = 0; i < cells.length; ) {
    const { style } = cells[i]!;
    let run = "";
    while (i < cells.length && cells[i]!.style === style) run += cells[i++]!.grapheme;
    text += style(run);
  }
  return text;
}

const frameMilliseconds = 33;
const hideCursor = "\x1b[?25l";
const showCursor = "\x1b[?25h";
const clearBelow = "\x1b[J";

export interface Terminal extends NodeJS.WritableStream {
  columns?: number;
  rows?: number;
}

/** How long a stage of a text's making can be read. */
const stageMilliseconds = 500;

/** Paints at most 30 times a second, and only what fits the screen: the end of longer texts. */
export class LiveRegion {
  readonly #terminal: Terminal;
  #painted = 0;
  #last = 0;
  #started = false;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
  }

  update(chunks: () => readonly Chunk[]): void {
    const now = performance.now();
    if (this.#started && now - this.#last < frameMilliseconds) return;
    this.#paint(chunks(), now);
  }

  /** Paints in any case, and leaves it for half a second: one of a few stages, each to be read. The signal ends the wait. */
  async stage(chunks: readonly Chunk[], signal?: AbortSignal): Promise<void> {
    this.#paint(chunks, performance.now());
    await setTimeout(stageMilliseconds, undefined, signal && { signal }).catch(() => {});
  }

  #paint(chunks: readonly Chunk[], now: number): void {
    this.#last = now;
    const rows = Math.max(2, (this.#terminal.rows ?? 24) - 1);
    this.#write(wrap(chunks, this.#width).slice(-rows));
  }

  /** Leaves this as the final text, all of it. */
  finish(chunks: readonly Chunk[]): void {
    this.#write(wrap(chunks, this.#width));
    this.#terminal.write("\n");
    this.stop();
  }

  /** Gives the terminal back as it is. */
  stop(): void {
    if (this.#started) this.#terminal.write(showCursor);
    this.#started = false;
  }

  get #width(): number {
    return Math.max(8, this.#terminal.columns ?? 80);
  }

  #write(lines: readonly string[]): void {
    const home = this.#painted > 1 ? `\x1b[${this.#painted - 1}A\r` : "\r";
    this.#terminal.write(`${this.#started ? "" : hideCursor}${home}${clearBelow}${lines.join("\n")}`);
    this.#painted = lines.length;
    this.#started = true;
  }
}
