/** How likely a text is to a model: its negative log-likelihood, or an upper bound on it. */

import { checkNames, checkSignal, invalid } from "../decoding/options.js";
import { NoemaError } from "../errors.js";
import { describe } from "../json.js";
import { filledBefore } from "../patches.js";
import { idsKept } from "../tokenizer/tokenizer.js";
import {
  type BoundOptions,
  boundDefaults,
  boundNames,
  type EstimateForm,
  type EstimateKind,
  type EstimateOptions,
  type OwnForm,
  type Scorer,
  type Window,
  type WindowBound,
  windowBounds,
} from "./bound.js";
import { checkedInStretches, type Encoder, encodedInStretches } from "./ids.js";
import { BoundTotals } from "./statistics.js";
import { checkContext, windowsOfIds } from "./windows.js";

interface Readable {
  /** Tokens that a window may have. */
  readonly maxPositions: number;
  /** Tokens that only come together. Default: 1. */
  readonly patchSize?: number;
  /** What fills their gaps. */
  readonly eosTokenId?: number | undefined;
  readonly tokenizer?: Encoder | undefined;
}

/** A model that is bounded by its losses under corruption. */
export interface Corrupted extends Scorer, Readable {}

/** A model of a family that bounds windows in a way of its own. */
export interface Bounded extends Readable {
  readonly form: OwnForm;
  bounds(windows: Iterable<Window> | AsyncIterable<Window>, options: EstimateOptions): AsyncGenerator<WindowBound>;
}

/** A model of a family whose likelihoods are exact. */
export interface Exact extends Readable {
  likelihoods(windows: Iterable<Window> | AsyncIterable<Window>, options: BoundOptions): AsyncGenerator<WindowBound>;
}

/** What scoring needs of a model. */
export type ScoredModel = Corrupted | Bounded | Exact;

/** The family's estimates, and what they are called. */
export interface Estimates {
  kind: EstimateKind;
  form: EstimateForm;
  /** 0: nothing is drawn. */
  draws: number;
  bounds: AsyncGenerator<WindowBound>;
}

export function estimates(
  model: ScoredModel,
  windows: Iterable<Window> | AsyncIterable<Window>,
  options: EstimateOptions,
): Estimates {
  const { draws, form } = { ...boundDefaults, ...options };
  if (!("form" in model && model.form === "fresh-noise")) refuseThoughts(options);
  if ("likelihoods" in model) {
    refuseGiven(options, ["form", "draws", "seed"], "nothing: this model's likelihood is exact");
    return { kind: "exact", form: "chain-rule", draws: 0, bounds: model.likelihoods(windows, options) };
  }
  if (!("bounds" in model)) return { kind: "upper", form, draws, bounds: windowBounds(model, windows, options) };
  refuseGiven(options, ["form"], "nothing: this model's bound has one form");
  return { kind: "upper", form: model.form, draws, bounds: model.bounds(windows, options) };
}

function refuseThoughts({ think, sameNoise }: EstimateOptions): void {
  const given = [...(think === undefined ? [] : ["think"]), ...(sameNoise ? ["sameNoise"] : [])];
  if (given.length > 0)
    throw new NoemaError("ERR_UNSUPPORTED", `${given.join(" and ")}: for thought models; this is none`, { given });
}

function refuseGiven(options: BoundOptions, names: readonly (keyof BoundOptions)[], expected: string): void {
  for (const name of names) if (options[name] !== undefined) throw invalid(name, options[name], expected);
}

export interface ScoreOptions extends BoundOptions {
  /** Text in front that is given: it is seen, not scored. */
  context?: string | ArrayLike<number>;
  /** Tokens per window, at most the model's positions. Longer texts are cut; a window does not see the others. */
  length?: number;
}

export interface Score {
  /** What is said: the text costs at most `nats`, give or take `standardError`; or exactly `nats`. */
  bound: EstimateKind;
  nats: number;
  tokens: number;
  /** Of `nats`, over the draws. NaN for a single draw, 0 where nothing is drawn. */
  standardError: number;
  /** Corruptions, or draws of latents, of every window; 0 where nothing is drawn. */
  draws: number;
  form: EstimateForm;
  windows: number;
  /** In nats: the importance-weighted bound over the draws, where the family has one. */
  importanceWeighted?: number;
}

/** Scores a text, or its token ids. */
export async function score(
  model: ScoredModel,
  text: string | ArrayLike<number>,
  options: ScoreOptions = {},
): Promise<Score> {
  checkNames(options, [...boundNames, "context", "length"], "score");
  const { context = "", length: asked, ...bound } = options;
  checkSignal(bound.signal);
  const length = windowLength(model, asked);
  const before = await idsOf(model, context, { name: "context", signal: bound.signal });
  checkContext(before.length, length);
  const ids = await idsOf(model, text, { name: "text", signal: bound.signal });
  if (ids.length === 0)
    throw new NoemaError("ERR_INVALID_ARGUMENT", "score: the text is empty, expected at least one token");
  const { patchSize = 1, eosTokenId } = model;
  const windows = windowsOfIds(ids, length, filledBefore(before, { patchSize, eosTokenId }, "the context"));
  const totals = new BoundTotals();
  const { kind, form, draws, bounds } = estimates(model, windows, bound);
  for await (const window of bounds) totals.add(window);
  const { nats, tokens, drawError, importanceWeighted } = totals.summary(draws);
  return {
    ...{ bound: kind, nats, tokens, standardError: drawError * tokens, draws, form, windows: windows.length },
    ...(importanceWeighted !== undefined && { importanceWeighted: importanceWeighted * tokens }),
  };
}

async function idsOf(
  model: ScoredModel,
  text: string | ArrayLike<number>,
  { name, signal }: { name: string; signal: AbortSignal | undefined },
): Promise<Int32Array> {
  if (typeof text !== "string") return checkedInStretches(text, name, signal);
  if (model.tokenizer) return idsKept(await encodedInStretches(text, model.tokenizer, signal), text, name);
  if (text === "") return new Int32Array(0);
  throw new NoemaError("ERR_BAD_TOKENIZER", "this model has no tokenizer: score token ids instead of text");
}

/** The window length asked for, if the model has that many positions. */
export function windowLength(model: Pick<Readable, "maxPositions">, length = model.maxPositions): number {
  if (Number.isInteger(length) && length >= 1 && length <= model.maxPositions) return length;
  const expected = `an integer 1 .. ${model.maxPositions}, the model's positions`;
  throw new NoemaError("ERR_INVALID_ARGUMENT", `length is ${describe(length)}, expected ${expected}`, { length });
}
