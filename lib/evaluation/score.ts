/** How likely a text is to a model: an upper bound on its negative log-likelihood. */

import { checkNames, checkNumber, invalid, isList } from "../decoding/options.js";
import { NoemaError } from "../errors.js";
import { type BoundForm, type BoundOptions, boundDefaults, boundNames, type Scorer, windowBounds } from "./bound.js";
import { BoundTotals } from "./statistics.js";
import { type Encoder, windowsOfIds } from "./windows.js";

/** What scoring needs of a model. */
export interface ScoredModel extends Scorer {
  readonly maxPositions: number;
  readonly tokenizer?: Encoder | undefined;
}

export interface ScoreOptions extends BoundOptions {
  /** Text in front that is given: it is seen, not scored. */
  context?: string | ArrayLike<number>;
  /** Tokens per window, at most the model's positions. Longer texts are cut; a window does not see the others. */
  length?: number;
}

export interface Score {
  /** What the bound says: the text costs at most `nats`, give or take `standardError`. */
  bound: "upper";
  nats: number;
  tokens: number;
  /** Of `nats`, over the draws. NaN for a single draw. */
  standardError: number;
  /** Corruptions of every window. */
  draws: number;
  form: BoundForm;
  windows: number;
}

/** Scores a text, or its token ids. */
export async function score(
  model: ScoredModel,
  text: string | ArrayLike<number>,
  options: ScoreOptions = {},
): Promise<Score> {
  checkNames(options, [...boundNames, "context", "length"], "score");
  const { context = "", length, ...bound } = options;
  const ids = idsOf(model, text, "text");
  if (ids.length === 0)
    throw new NoemaError("ERR_INVALID_ARGUMENT", "score: the text is empty, expected at least one token");
  const windows = windowsOfIds(ids, windowLength(model, length), idsOf(model, context, "context"));
  const { form, draws } = { ...boundDefaults, ...bound };
  const totals = new BoundTotals();
  for await (const window of windowBounds(model, windows, bound)) totals.add(window);
  const { nats, tokens, drawError } = totals.summary(draws);
  return { bound: "upper", nats, tokens, standardError: drawError * tokens, draws, form, windows: windows.length };
}

/** That an id has a row is the native side's to check; that it is one is checked here, for typed arrays would round it. */
function idsOf(model: ScoredModel, text: string | ArrayLike<number>, name: string): ArrayLike<number> {
  if (typeof text !== "string") {
    if (!isList(text)) throw invalid(name, text, "a string or a list of token ids");
    const isId = { min: 0, max: 2 ** 31 - 1, integer: true };
    for (let i = 0; i < text.length; i++) checkNumber(text[i], isId, `${name}[${i}]`);
    return text;
  }
  if (model.tokenizer) return model.tokenizer.encode(text);
  if (text === "") return [];
  throw new NoemaError("ERR_BAD_TOKENIZER", "this model has no tokenizer: score token ids instead of text");
}

/** The window length asked for, if the model has that many positions. */
export function windowLength(model: Pick<ScoredModel, "maxPositions">, length = model.maxPositions): number {
  if (Number.isInteger(length) && length >= 1 && length <= model.maxPositions) return length;
  const expected = `an integer 1 .. ${model.maxPositions}, the model's positions`;
  throw new NoemaError("ERR_INVALID_ARGUMENT", `length is ${length}, expected ${expected}`, { length });
}
