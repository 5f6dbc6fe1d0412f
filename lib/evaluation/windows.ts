/** Cuts text into windows of the model's length. */

import { NoemaError } from "../errors.js";
import { Stretch } from "../stretch.js";
import { inspectTextFile, readPieces, type TextOptions } from "../training/text.js";
import type { Window } from "./bound.js";
import type { Encoder } from "./ids.js";

export interface WindowOptions extends TextOptions {
  length: number;
  /** Ends every document; counts as a token. Undefined: documents follow one another without a mark. */
  eosId?: number | undefined;
  /**
   * "packed": all documents in one row, cut every `length` tokens, as training sees them; what is left at the end is one
   * shorter window. "documents": every document is cut by itself.
   */
  packing?: "packed" | "documents";
  /** Every window's first tokens that are given, not scored; windows without any more are left out, and not counted. Default: 0. */
  prefix?: number;
  /**
   * Windows of whole multiples of so many tokens, for models that cannot fill a patch: what is left over at the end is
   * left out, of every document where they are cut by themselves. `length` and `prefix` are multiples, too. Default: 1.
   */
  multipleOf?: number;
  /** No more than this many windows. */
  limit?: number | undefined;
}

/** How much text was read for the windows so far. */
export interface TextCount {
  /** Of the text that the tokens stand for: what a tokenizer leaves out of a text is not predicted, so nothing is divided by it. */
  characters: number;
  bytes: number;
  /** Ends of documents count too. */
  tokens: number;
  /** Bytes of the text as it was read. */
  bytesRead: number;
  /** Whether the tokens stand for another text than was read. */
  isAltered: boolean;
}

export function noText(): TextCount {
  return { characters: 0, bytes: 0, tokens: 0, bytesRead: 0, isAltered: false };
}

/** Windows of the files, in order; files that hold no text are refused before the first. `count` is kept up to date while windows come out. */
export async function* windowsOfFiles(
  paths: readonly string[],
  encoder: Encoder,
  options: WindowOptions,
  count: TextCount = noText(),
): AsyncGenerator<Window> {
  const { prefix = 0, multipleOf = 1 } = options;
  const cutter = new Cutter(options.length, { context: prefix, multipleOf });
  const stretch = new Stretch();
  for (const path of paths) await inspectTextFile(path);
  for (const path of paths) {
    for await (const { text, last } of readPieces(path, options)) {
      await stretch.rest();
      count.tokens += cutter.append(encoded(text, encoder, count));
      if (last && options.eosId !== undefined) count.tokens += cutter.append([options.eosId]);
      yield* cutter.whole(options.limit);
      if (last && options.packing === "documents") yield* cutter.rest(options.limit);
      if (cutter.count >= (options.limit ?? Number.POSITIVE_INFINITY)) return;
    }
  }
  yield* cutter.rest(options.limit);
  if (cutter.count > 0) return;
  const least = prefix > 0 ? `longer than the prefix of ${prefix} tokens` : `of ${multipleOf} tokens, a patch`;
  const problem = count.tokens > 0 ? `no window is ${least}` : "no text";
  throw new NoemaError("ERR_BAD_CORPUS", `${paths.join(", ")}: ${problem}`, { paths });
}

/** The text's ids; the text is counted. What its tokenizer deletes is left out, as it was in training. */
function encoded(text: string, encoder: Encoder, count: TextCount): ArrayLike<number> {
  const ids = encoder.encode(text, { allowDeletions: true });
  const spelled = encoder.standsFor?.(text, ids) ?? text;
  count.characters += [...spelled].length;
  count.bytes += Buffer.byteLength(spelled);
  count.bytesRead += Buffer.byteLength(text);
  count.isAltered ||= spelled !== text;
  return ids;
}

/** Windows of one text. The first one starts with the context, whose tokens are given, not scored. */
export function windowsOfIds(ids: ArrayLike<number>, length: number, context: ArrayLike<number> = []): Window[] {
  checkContext(context.length, length);
  const all = new Int32Array(context.length + ids.length);
  all.set(context);
  all.set(ids, context.length);
  return Array.from({ length: Math.ceil(all.length / length) }, (_, index) => {
    const own = all.slice(index * length, (index + 1) * length);
    return { index, ids: own, ...(index === 0 && context.length > 0 && { context: context.length }) };
  });
}

/** A context of so many tokens must leave room in a window. */
export function checkContext(context: number, length: number): void {
  if (context < length) return;
  const message = `a context of ${context} tokens leaves nothing of the model's ${length} positions to score`;
  throw new NoemaError("ERR_PROMPT_TOO_LONG", message, { context, length });
}

class Cutter {
  count = 0;
  #ids: number[] = [];
  readonly #context: number;
  readonly #multipleOf: number;

  constructor(
    readonly length: number,
    { context = 0, multipleOf = 1 }: { context?: number; multipleOf?: number } = {},
  ) {
    this.#context = context;
    this.#multipleOf = multipleOf;
  }

  append(ids: ArrayLike<number>): number {
    for (let i = 0; i < ids.length; i++) this.#ids.push(ids[i]!);
    return ids.length;
  }

  *whole(limit = Number.POSITIVE_INFINITY): Generator<Window> {
    let start = 0;
    while (this.#ids.length - start >= this.length && this.count < limit) {
      yield this.#window(this.#ids.slice(start, start + this.length));
      start += this.length;
    }
    this.#ids = this.#ids.slice(start);
  }

  *rest(limit = Number.POSITIVE_INFINITY): Generator<Window> {
    const rest = this.#ids.slice(0, this.#ids.length - (this.#ids.length % this.#multipleOf));
    if (rest.length > this.#context && this.count < limit) yield this.#window(rest);
    this.#ids = [];
  }

  #window(ids: readonly number[]): Window {
    const context = this.#context;
    return { index: this.count++, ids: Int32Array.from(ids), ...(context > 0 && { context }) };
  }
}
