/** How well a model knows a corpus: nats per token with a standard error, perplexity, bits per character and per byte. */

import { checkFunction, checkNames, checkNumber, checkWord, invalid } from "../decoding/options.js";
import { NoemaError } from "../errors.js";
import { boundNames, type EstimateForm, type EstimateKind, type EstimateOptions, type Window } from "./bound.js";
import { estimates, type ScoredModel, windowLength } from "./score.js";
import { type BoundSummary, BoundTotals } from "./statistics.js";
import { noText, type TextCount, windowsOfFiles } from "./windows.js";

export interface EvaluateOptions extends EstimateOptions {
  /**
   * Tokens per window, at most the model's positions. Of a flow that has patches and no end-of-text token to fill them
   * with: whole patches, and the tokens that are left over at the end, less than a patch, are neither scored nor
   * counted.
   */
  length?: number;
  /** Stop after this many windows. */
  limit?: number;
  packing?: "packed" | "documents";
  /**
   * The loss of continuations: every window's first so many tokens are given, and the others are scored. A thought model fits its
   * thought to them alone. Windows that have no more tokens are left out. Of a flow: whole patches.
   */
  prefix?: number;
  /** A line that ends a document. Default `<|endoftext|>`. */
  separator?: string;
  /** Called after every window with what is known so far. */
  onProgress?: (progress: EvaluationProgress) => void;
}

export interface EvaluationProgress {
  sequences: number;
  tokens: number;
  /** Nats per token. */
  bound: number;
  standardError: number;
  /** Bytes of the files that were read. */
  bytes: number;
}

export interface Evaluation extends BoundSummary {
  /** What all figures are: upper bounds, or exact. */
  kind: EstimateKind;
  /** exp(bound). */
  perplexity: number;
  bitsPerCharacter: number;
  bitsPerByte: number;
  /** Of the text that the scored tokens stand for, as are bits per character and per byte. */
  characters: number;
  bytes: number;
  /**
   * Whether that is another text than the files': the tokenizer folds capitals, say, or leaves out what it cannot spell. Bits per character
   * and per byte are then no figures of the files, and compare with those of the same tokenizer alone.
   */
  isAltered: boolean;
  /** Of every window; 0 where nothing is drawn. */
  draws: number;
  form: EstimateForm;
  length: number;
  /** Tokens given of every window, where there were any; all other figures are of those after them. */
  prefix?: number;
}

const packings = ["packed", "documents"];
const evaluateNames = [...boundNames, "length", "limit", "packing", "prefix", "sameNoise", "separator", "onProgress"];

/** Evaluates text files. Nothing larger than a piece of text and a few windows is in memory. */
export async function evaluate(
  model: ScoredModel,
  files: string | readonly string[],
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  checkNames(options, evaluateNames, "evaluate");
  checkFunction(options.onProgress, "onProgress");
  const paths = filesOf(files);
  const { tokenizer } = model;
  if (!tokenizer) throw new NoemaError("ERR_BAD_TOKENIZER", "this model has no tokenizer: text cannot be evaluated");
  const cut = cutOf(model, options);
  const count = noText();
  const windows = windowsOfFiles(paths, tokenizer, cut, count);
  const totals = new BoundTotals();
  const { kind, form, draws, bounds } = estimates(model, withSignal(windows, options.signal), options);
  for await (const window of bounds) {
    totals.add(window);
    if (options.onProgress) options.onProgress({ ...totals.summary(draws), bytes: count.bytesRead });
  }
  const { length, prefix } = cut;
  const given = prefix > 0 ? { prefix } : {};
  return { kind, ...perUnit(totals.summary(draws), count), draws, form, length, ...given };
}

function filesOf(files: unknown): string[] {
  const paths = typeof files === "string" ? [files] : files;
  if (Array.isArray(paths) && paths.length > 0 && paths.every((path) => typeof path === "string")) return paths;
  throw invalid("files", files, "the path of a text file, or a list of paths");
}

/** How text is cut into windows, checked before a file is read. */
function cutOf(model: ScoredModel, options: EvaluateOptions) {
  const { packing = "packed", limit, separator, prefix = 0, sameNoise = false } = options;
  const length = windowLength(model, options.length);
  checkWord(packing, packings, "packing");
  if (limit !== undefined) checkNumber(limit, { min: 1, integer: true }, "limit");
  checkNumber(prefix, { min: 0, max: length - 1, integer: true }, "prefix");
  const { patchSize = 1, eosTokenId: eosId } = model;
  const multipleOf = eosId === undefined ? patchSize : 1;
  const multiple = `a multiple of ${patchSize}, the tokens of a patch`;
  if (prefix % patchSize !== 0) throw invalid("prefix", prefix, multiple);
  if (length % multipleOf !== 0)
    throw invalid("length", length, `${multiple}, for the model has no end-of-text token to fill patches with`);
  if (separator !== undefined && typeof separator !== "string") throw invalid("separator", separator, "a string");
  if (typeof sameNoise !== "boolean") throw invalid("sameNoise", sameNoise, "true or false");
  if (sameNoise && prefix > 0) throw invalid("sameNoise", sameNoise, "whole windows, without a prefix");
  return { length, eosId, limit, packing, prefix, multipleOf, ...(separator !== undefined && { separator }) };
}

async function* withSignal(windows: AsyncIterable<Window>, signal: AbortSignal | undefined): AsyncGenerator<Window> {
  for await (const window of windows) {
    signal?.throwIfAborted();
    yield window;
  }
}

/** With a limit the last piece of text is covered only in part, so units are scaled by the tokens that were scored. */
function perUnit(summary: BoundSummary, { characters, bytes, tokens, isAltered }: TextCount) {
  const bits = summary.nats / Math.LN2;
  const share = tokens > 0 ? summary.tokens / tokens : 0;
  return {
    ...summary,
    perplexity: Math.exp(summary.bound),
    bitsPerCharacter: bits / (characters * share),
    bitsPerByte: bits / (bytes * share),
    characters: Math.round(characters * share),
    bytes: Math.round(bytes * share),
    isAltered,
  };
}
