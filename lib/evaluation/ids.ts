/** The token ids of texts that may be longer than any model has positions: made, or checked, in stretches, and with an ear for the signal. */

import { checkNumber, invalid, isList } from "../decoding/options.js";
import { Stretch } from "../stretch.js";
import { isLowSurrogate, PIECE_CHARACTERS } from "../training/text.js";

/** What is asked of a tokenizer here. */
export interface Encoder {
  encode(text: string, options?: { allowDeletions?: boolean }): ArrayLike<number>;
  /** The text that a text's ids stand for. Default: the text. */
  standsFor?(text: string, ids: ArrayLike<number>): string;
}

/** The ids of a whole text; they do not depend on the pieces that it is tokenised in. */
export function encodedInStretches(text: string, encoder: Encoder, signal?: AbortSignal): Promise<Int32Array> {
  return gathered(encodedPieces(text, encoder), signal);
}

/** That an id has a row is the native side's to check; that it is one is checked here, for typed arrays would round it. */
export function checkedInStretches(ids: unknown, name: string, signal?: AbortSignal): Promise<Int32Array> {
  if (!isList(ids)) throw invalid(name, ids, "a string or a list of token ids");
  return gathered(checkedPieces(ids, name), signal);
}

async function gathered(pieces: Iterable<ArrayLike<number>>, signal: AbortSignal | undefined): Promise<Int32Array> {
  const stretch = new Stretch();
  const made: ArrayLike<number>[] = [];
  let length = 0;
  for (const piece of pieces) {
    made.push(piece);
    length += piece.length;
    if (await stretch.rest()) signal?.throwIfAborted();
  }
  const ids = new Int32Array(length);
  let at = 0;
  for (const piece of made) {
    ids.set(piece, at);
    at += piece.length;
  }
  return ids;
}

const PIECE_IDS = 1 << 16;
const isId = { min: 0, max: 2 ** 31 - 1, integer: true };

function* checkedPieces(ids: ArrayLike<number>, name: string): Generator<Int32Array> {
  for (let start = 0; start < ids.length; start += PIECE_IDS) {
    const piece = new Int32Array(Math.min(PIECE_IDS, ids.length - start));
    for (let i = 0; i < piece.length; i++) {
      const id = ids[start + i]!;
      // The name costs more than the check.
      if (!Number.isInteger(id) || id < isId.min || id > isId.max) checkNumber(id, isId, `${name}[${start + i}]`);
      piece[i] = id;
    }
    yield piece;
  }
}

function* encodedPieces(text: string, encoder: Encoder): Generator<ArrayLike<number>> {
  let start = 0;
  for (let end = cutAfter(text, PIECE_CHARACTERS, encoder); end < text.length; ) {
    yield encoder.encode(text.slice(start, end));
    start = end;
    end = cutAfter(text, start + PIECE_CHARACTERS, encoder);
  }
  yield encoder.encode(text.slice(start));
}

/** Where words end, whatever rule cuts them: a letter or digit comes before, white space or punctuation (but for apostrophes) after. */
const ENDS = /(?<=[\p{L}\p{N}])(?=\s|(?!['’])\p{P})/gu;
/** Characters that are searched for such a place at a time, how many places are tried, and what is looked at around each. */
const REACH = 1 << 10;
const TRIES = 4;
const AROUND = 64;

/**
 * The first place, not much before `from`, where a text may be cut without a token changing; its end where there is none. A tokenizer
 * that begins every text by something of its own allows no cut, and the rest of the text is one piece.
 */
function cutAfter(text: string, from: number, encoder: Encoder): number {
  for (let start = from - REACH; start + REACH < text.length; start += REACH) {
    const ends = [...text.slice(start, start + REACH).matchAll(ENDS)].slice(-TRIES);
    const end = ends.findLast(({ index }) => isSeam(text, start + index, encoder));
    if (end) return start + end.index;
    if (ends.length > 0) break;
  }
  return text.length;
}

/** Whether the tokens around a place are the same with and without a cut there. */
function isSeam(text: string, at: number, encoder: Encoder): boolean {
  const before = text.slice(characterStart(text, Math.max(0, at - AROUND)), at);
  const after = text.slice(at, characterStart(text, at + AROUND));
  const whole = encoder.encode(before + after);
  const parts = [...Array.from(encoder.encode(before)), ...Array.from(encoder.encode(after))];
  return whole.length === parts.length && parts.every((id, i) => id === whole[i]);
}

/** Not between the halves of a surrogate pair. */
function characterStart(text: string, at: number): number {
  return isLowSurrogate(text, at) ? at - 1 : at;
}
