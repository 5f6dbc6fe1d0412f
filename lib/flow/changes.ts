/** What an edit may change, checked, and what is told of it. */

import { checkNames, checkNumber, invalid } from "../decoding/options.js";
import { NoemaError } from "../errors.js";

/** A new token at a place of the text. */
export interface TokenChange {
  /** Index among the text's tokens. */
  at: number;
  token: number;
}

/** New latents at a position of a state. */
export interface LatentChange {
  /** Index among the positions, of `patchSize` tokens each. */
  position: number;
  /** c = latentSize * patchSize numbers. */
  values: ArrayLike<number>;
}

export interface TokenDifference {
  /** Index among the text's tokens. */
  at: number;
  before: number;
  after: number;
  /** Whether a token was asked for here, or latents of its position; the others followed. */
  asked: boolean;
  /**
   * Where a token was asked for: the one that was to come. At level 0 it comes, unless the encoder's own noise takes it
   * into another's place. Above, the flows below may make another of its state: then `after` is not `wanted`, and may
   * be `before`.
   */
  wanted?: number;
}

/** What changes are checked against. */
interface ChangedText {
  /** Of the text. */
  tokens: number;
  vocabSize: number;
  /** P. */
  patchSize: number;
  /** c. */
  channels: number;
}

export interface Changes {
  tokens: readonly TokenChange[];
  latents: readonly LatentChange[];
}

/** Refuses what is no change, what lies outside of the text, and changes of which one would undo another. */
export function checkChanges({ tokens, latents }: Changes, text: ChangedText): void {
  const { patchSize: P, channels: c } = text;
  const places = new Set<number>();
  for (const [name, { at, token }] of items<TokenChange>(tokens, "tokens", ["at", "token"])) {
    checkNumber(at, { min: 0, max: text.tokens - 1, integer: true }, `${name}.at`);
    checkNumber(token, { min: 0, max: text.vocabSize - 1, integer: true }, `${name}.token`);
    if (places.has(at)) throw invalid(`${name}.at`, at, "a token that no other change is of");
    places.add(at);
  }
  const taken = new Set(Array.from(places, (at) => Math.floor(at / P)));
  for (const [name, { position, values }] of items<LatentChange>(latents, "latents", ["position", "values"])) {
    const most = Math.ceil(text.tokens / P) - 1;
    checkNumber(position, { min: 0, max: most, integer: true }, `${name}.position`);
    if (values?.length !== c || !Array.from(values).every(Number.isFinite))
      throw invalid(`${name}.values`, values, `${c} finite numbers`);
    if (taken.has(position)) throw invalid(`${name}.position`, position, "a position that no other change is of");
    taken.add(position);
  }
  if (tokens.length + latents.length === 0)
    throw new NoemaError("ERR_INVALID_ARGUMENT", "edit: expected changes, in tokens or in latents");
}

/** The entries of a list, and what they are called in messages. */
function* items<T>(list: unknown, name: string, names: readonly string[]): Generator<[string, T]> {
  const expected = `a list of changes { ${names.join(", ")} }`;
  if (!Array.isArray(list)) throw invalid(name, list, expected);
  for (const [i, item] of list.entries()) {
    checkNames(item, names, `${name}[${i}]`);
    yield [`${name}[${i}]`, item as T];
  }
}

/** Every place that was asked for, and the others whose tokens differ. */
export function differencesOf(
  before: Int32Array,
  after: Int32Array,
  { tokens, latents }: Changes,
  patchSize: number,
): TokenDifference[] {
  const wanted = new Map(tokens.map(({ at, token }) => [at, token]));
  const moved = new Set(latents.map(({ position }) => position));
  const isAsked = (at: number) => wanted.has(at) || moved.has(Math.floor(at / patchSize));
  return Array.from(before.keys())
    .filter((at) => isAsked(at) || before[at] !== after[at])
    .map((at) => {
      const place = { at, before: before[at]!, after: after[at]!, asked: isAsked(at) };
      return wanted.has(at) ? { ...place, wanted: wanted.get(at)! } : place;
    });
}
