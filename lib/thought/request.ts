/** What callers of a thought model's generate may ask for, checked. */

import type { ThoughtConfig } from "../checkpoint/config.js";
import type { Manner } from "../decoding/drafts.js";
import { checkNames, checkNumber, checkSignal, invalid, sharedOptions } from "../decoding/options.js";
import { NoemaError } from "../errors.js";
import { type FitOptions, fitSettings } from "../posterior/fit.js";
import { Thought } from "../posterior/thought.js";
import { type Limits, type Prompt, promptIds, promptName, seedAt, tokenCount } from "../request.js";
import type { Seed } from "../rng.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";

export interface ThoughtGenerateOptions {
  /** Default: empty, which writes a text from its start. */
  prompt?: Prompt;
  /** Default: 128, or what the model's positions leave. */
  maxTokens?: number;
  /** How thoughts are fitted to the prompt and, in rounds, refits and drafts, to what was written: more steps are more thought. */
  think?: FitOptions;
  /**
   * Guides the text instead of one that is fitted to the prompt. The text begins by it; the fits of `refitEvery` and `rounds` replace it.
   * Of several drafts each begins by it.
   */
  thought?: Thought;
  /** Scale of the draw from the prior that guides a text without a prompt, and no other text. Default: 1. */
  priorScale?: number;
  /** The thought is fitted anew, to all that is there, after so many new tokens. Default: 0, never. */
  refitEvery?: number;
  /**
   * Rethinking (ltm.md section 7.1): after a draft the thought is fitted to prompt and draft, and the text written anew, so many times. The
   * draft with the lowest bound is the text. Default: 0.
   */
  rounds?: number;
  /** Texts that are written, each from a thought of its own; the one with the lowest bound is the text. Default: 1. */
  drafts?: number;
  /** Default: 1, the model's own distribution. 0: the likeliest token. */
  temperature?: number;
  /** From the K likeliest tokens. Default: 0, all. */
  topK?: number;
  /** From the likeliest tokens of this mass. Default: 1. */
  topP?: number;
  /** Also report the text as it grows, or, with rounds or drafts, the best draft so far, as refine events. */
  refine?: boolean;
  /** Fixes the output. Default: 0. */
  seed?: Seed;
  /** Ends the run with ERR_ABORTED: the signal's reason is the error's cause, what was made so far its `partial`. */
  signal?: AbortSignal;
}

export interface ThoughtBatchOptions extends Omit<ThoughtGenerateOptions, "prompt" | "refine"> {
  prompts: readonly Prompt[];
}

const shared = ["maxTokens", "think", "thought", "priorScale", "refitEvery", "rounds", "drafts"];
const drawing = ["temperature", "topK", "topP", "seed", "signal"];
export const thoughtGenerateOptions = ["prompt", "refine", ...shared, ...drawing];
export const thoughtBatchOptions = ["prompts", ...shared, ...drawing];

/** How a call writes its texts, and how many it writes before it chooses. */
export interface ThoughtManner extends Manner {
  rounds: number;
  candidates: number;
  refine: boolean;
}

export interface ThoughtCanvas {
  readonly prompt: readonly number[];
  readonly wanted: number;
  readonly seed: bigint;
}

export function thoughtLimits(
  { vocabSize, maxPositions, eosTokenId: eosId = -1 }: ThoughtConfig,
  tokenizer: Tokenizer | undefined,
): Limits {
  return { vocabSize, maxPositions, maskId: -1, eosId, tokenizer };
}

export function mannerOf(
  options: ThoughtGenerateOptions | ThoughtBatchOptions,
  config: ThoughtConfig,
  allowed: readonly string[],
): ThoughtManner {
  checkNames(options, allowed, "generate");
  checkSignal(options.signal);
  const { refine = false, ...asked } = options as ThoughtGenerateOptions;
  if (typeof refine !== "boolean") throw invalid("refine", refine, "true or false");
  const { thought, think = {}, temperature = 1, topK = 0, topP = 1 } = asked;
  if (thought !== undefined && !(thought instanceof Thought)) throw invalid("thought", thought, "a thought");
  const count = (name: "refitEvery" | "rounds" | "drafts", least: number, most: number) =>
    checkNumber(asked[name] ?? least, { min: least, max: most, integer: true }, name);
  const manner = {
    ...{ fit: fitSettings(think, config), thought, refine },
    priorScale: checkNumber(asked.priorScale ?? 1, { min: 0, max: 10 }, "priorScale"),
    refitEvery: count("refitEvery", 0, config.maxPositions),
    rounds: count("rounds", 0, 1000),
    candidates: count("drafts", 1, 256),
    draw: {
      temperature: checkNumber(temperature, sharedOptions.temperature, "temperature"),
      topK: checkNumber(topK, sharedOptions.topK, "topK"),
      topP: checkNumber(topP, sharedOptions.topP, "topP"),
    },
  };
  if (thought) refuseIdle(asked, manner);
  return manner;
}

const idle = (problem: string) => new NoemaError("ERR_INVALID_ARGUMENT", `generate: ${problem}`);

/** Who asks for what has no effect on texts that a given thought guides expects one. */
function refuseIdle(asked: ThoughtGenerateOptions, { rounds, refitEvery, candidates, draw }: ThoughtManner): void {
  const isRefitted = rounds > 0 || refitEvery > 0;
  if (asked.think !== undefined && !isRefitted && candidates === 1)
    throw idle("think has no effect: the thought is given, and without rounds, refitEvery or drafts none is fitted");
  if (asked.priorScale !== undefined)
    throw idle("priorScale has no effect: the thought is given, and none is drawn from the prior");
  if (candidates > 1 && !isRefitted && (draw.temperature === 0 || draw.topK === 1))
    throw idle("drafts would all be the same text: the likeliest tokens by the one thought that is given");
}

/** A prompt is what thoughts are fitted to; only without one they are drawn. */
export function checkPriorScale(
  { priorScale }: Pick<ThoughtGenerateOptions, "priorScale">,
  canvases: readonly ThoughtCanvas[],
): void {
  if (priorScale !== undefined && canvases.length > 0 && canvases.every(({ prompt }) => prompt.length > 0))
    throw idle("priorScale has no effect: the thought is fitted to the prompt, and none is drawn from the prior");
}

export function thoughtCanvas(
  { prompt = [], maxTokens, seed }: Pick<ThoughtGenerateOptions, "prompt" | "maxTokens" | "seed">,
  limits: Limits,
  index?: number,
): ThoughtCanvas {
  const name = promptName(index);
  const ids = promptIds(prompt, limits, name);
  const wanted = tokenCount(maxTokens, ids.length, limits.maxPositions, name);
  return { prompt: ids, wanted, seed: seedAt(seed, index) };
}
