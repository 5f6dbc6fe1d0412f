/**
 * A canvas as styled text: given tokens bold, masks as dim blocks, tokens decided since the last frame in colour. Drafts of flows
 * and of thoughts are dim text.
 */

import type { RefineEvent } from "../generation.js";
import { percent } from "./columns.js";
import type { Chunk } from "./live-region.js";
import type { Palette } from "./palette.js";

type StyleName = "given" | "plain" | "fresh" | "mask" | "draft";

/** As wide as a token usually is. */
const block = "▒▒▒ ";

export class Painter {
  readonly #decode: (ids: number[]) => string;
  readonly #styles: Record<StyleName, Chunk["style"]>;
  readonly #promptTokens: number;
  #prompt: number[] = [];
  #before: Uint8Array | undefined;

  constructor(decode: (ids: number[]) => string, palette: Palette, promptTokens: number) {
    this.#decode = decode;
    this.#promptTokens = promptTokens;
    const { bold, green, dim } = palette;
    this.#styles = { given: bold, plain: (text) => text, fresh: green, mask: dim, draft: dim };
  }

  frame({ ids, mask, level, round }: RefineEvent): Chunk[] {
    const undecided = level === undefined && round === undefined ? "mask" : "draft";
    const before = this.#before;
    this.#before = mask;
    this.#prompt = [...ids.slice(0, this.#promptTokens)];
    return this.#runs(ids, (at) => {
      if (mask[at]) return undecided;
      if (at < this.#promptTokens) return "given";
      return before?.[at] === 0 ? "plain" : "fresh";
    });
  }

  /** A flow's draft, and below it which state it is. */
  draft(event: RefineEvent): Chunk[] {
    return [...this.frame(event), { text: `\n${stateName(event)}`, style: this.#styles.plain }];
  }

  /** A flow's draft as a line. */
  line(event: RefineEvent): string {
    return `${stateName(event)}: ${this.#decode([...event.ids]).replace(/\s+/g, " ")}`;
  }

  /** Prompt and text without the marks of their making. */
  final(text: string): Chunk[] {
    return [
      { text: this.#decode(this.#prompt), style: this.#styles.given },
      { text, style: this.#styles.plain },
    ];
  }

  #runs(ids: Int32Array, styleAt: (at: number) => StyleName): Chunk[] {
    return runsOf(ids, styleAt).map(({ run, style }) => {
      const text = style === "mask" ? block.repeat(run.length) : this.#decode(run);
      return { text, style: this.#styles[style] };
    });
  }
}

/** Which of a flow's states was read, and what such a reading is worth. */
function stateName({ level = 0, step, accuracy }: RefineEvent): string {
  const worth = accuracy === undefined ? "" : `, reads ${percent(accuracy)} right`;
  return `state ${level} of ${level + step}${worth}`;
}

/** Neighbours of one style, which are decoded together: a character may take several tokens. */
export function runsOf<S>(ids: Int32Array, styleAt: (at: number) => S): { run: number[]; style: S }[] {
  const runs: { run: number[]; style: S }[] = [];
  for (let at = 0; at < ids.length; ) {
    const style = styleAt(at);
    const run: number[] = [];
    while (at < ids.length && styleAt(at) === style) run.push(ids[at++]!);
    runs.push({ run, style });
  }
  return runs;
}
