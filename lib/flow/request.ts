/** What callers of a flow model's generate may ask for, checked and turned into canvases of whole patches. */

import type { FlowConfig, FlowKind } from "../checkpoint/config.js";
import { checkNames, checkNumber, checkSignal, invalid, sharedOptions } from "../decoding/options.js";
import { NoemaError } from "../errors.js";
import type { AncestralDraw } from "../native/addon.js";
import { filledBefore } from "../patches.js";
import { type Limits, type Prompt, promptIds, promptName, seedAt, tokenCount } from "../request.js";
import type { Seed } from "../rng.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { Inversion } from "./plan.js";

export interface FlowGenerateOptions {
  /** Default: empty, which writes a text from its start. */
  prompt?: Prompt;
  /** Default: 128, or what the model's positions leave. Rounded up to whole patches while it is made. */
  maxTokens?: number;
  /**
   * Puts an end-of-text token, which separates texts in training, before the prompt. Default: when the prompt is empty
   * and the model takes prompts.
   */
  documentStart?: boolean;
  /** Scale of the base noise; of an ancestral draw, temperature of the mixture's weights. Default: 1, what the model was trained for; less is tamer. */
  temperature?: number;
  /**
   * Draws from the mixture of the flow nearest the noise instead of inverting base noise through it (tarflowlm.md section 3.4): the same
   * law, no search, other texts of a seed. Its weights, one per token or component, can then be tempered and cut, as a language model's. Default:
   * false, true with topK or topP.
   */
  ancestral?: boolean;
  /** Of an ancestral draw: from the K likeliest components. Default: 0, all. */
  topK?: number;
  /** Of an ancestral draw: from the likeliest components of this mass. Default: 1. */
  topP?: number;
  /**
   * How the flows are inverted. With a plan's tolerance at its default, 0, all ways give the same tokens, to the last bit of the states, on
   * one device (of CUDA as far as its emulation shows: no GPU has run it); the processor and a GPU differ by roundings, and so may their texts. A
   * tolerance above 0 rests earlier and may give another text: the result's `residual` says how far it is off. "auto" measures them once per shape of text, which takes as long as some ten texts: a way that is slower than
   * the best before it is not waited for. With an ancestral draw it is of the flows below the one that is drawn from: a "jacobi" plan
   * of that one, or "jacobi" or "auto" where it is the only one, is refused. Default: "sequential".
   */
  inversion?: Inversion;
  /**
   * Early exit: the state to read the text from, by its readout, the flows below left out. Default: 0, the data's latents.
   * `measureDrafts` tells how often a level's reading agrees with the text.
   */
  exit?: number;
  /** Also report what every state reads as, coarse to fine, as refine events; of the levels that have a readout. */
  refine?: boolean;
  /** Fixes the output. Default: 0. */
  seed?: Seed;
  /** Ends the run with ERR_ABORTED: the signal's reason is the error's cause, what was made so far its `partial`. */
  signal?: AbortSignal;
}

export interface FlowBatchOptions extends Omit<FlowGenerateOptions, "prompt" | "refine"> {
  prompts: readonly Prompt[];
}

export const flowGenerateOptions = [
  "prompt",
  "maxTokens",
  "documentStart",
  "temperature",
  "ancestral",
  "topK",
  "topP",
  "inversion",
  "exit",
  "refine",
  "seed",
  "signal",
];
export const flowBatchOptions = [
  "prompts",
  ...flowGenerateOptions.filter((name) => name !== "prompt" && name !== "refine"),
];

/** What one text is made from. */
export interface FlowCanvas {
  /** Given tokens, whole patches. */
  readonly prefix: readonly number[];
  /** Tokens to make, and how many of them are wanted: the last patch may have more. */
  readonly added: number;
  readonly wanted: number;
  readonly promptTokens: number;
  readonly temperature: number;
  readonly seed: bigint;
}

export function flowLimits(config: FlowConfig, tokenizer: Tokenizer | undefined): Limits {
  const { vocabSize, maxPositions, patchSize, eosTokenId: eosId = -1 } = config;
  return { vocabSize, maxPositions: maxPositions * patchSize, maskId: -1, eosId, tokenizer };
}

export function checkFlowOptions(options: unknown, allowed: readonly string[], what: string): void {
  checkNames(options, allowed, what);
  const flags = options as FlowGenerateOptions;
  checkSignal(flags.signal);
  for (const name of ["documentStart", "refine", "ancestral"] as const)
    if (flags[name] !== undefined && typeof flags[name] !== "boolean")
      throw invalid(name, flags[name], "true or false");
}

/** The level that texts are read from. */
export function checkExit(exit: number | undefined, config: FlowConfig): number {
  const level = checkNumber(exit ?? 0, { min: 0, max: config.flows.length - 1, integer: true }, "exit");
  if (hasReading(level, config)) return level;
  throw new NoemaError("ERR_UNSUPPORTED", `exit: the state at level ${level} has no readout`, { level });
}

type Drawing = Pick<FlowGenerateOptions, "ancestral" | "temperature" | "topK" | "topP" | "inversion">;

/** How the flow nearest the noise is drawn from; undefined: it is inverted. `checkInversion` has seen the inversion. */
export function checkAncestral(
  { ancestral, temperature = 1, topK = 0, topP = 1, inversion }: Drawing,
  { flows }: FlowConfig,
): AncestralDraw | undefined {
  checkNumber(topK, sharedOptions.topK, "topK");
  checkNumber(topP, sharedOptions.topP, "topP");
  const cut = topK > 0 || topP < 1;
  if (ancestral === false && cut)
    throw invalid("ancestral", ancestral, "true with topK or topP, which cut what is drawn from");
  if (!ancestral && !cut) return undefined;
  const { kind } = flows.at(-1)!;
  if (kind === "affine") throw undrawable("the flow nearest the noise is affine; only mixtures are drawn from", kind);
  if (kind === "mixture-cdf" && (cut || temperature !== 1))
    throw undrawable(
      "the flow nearest the noise is mixture-cdf; only mixture-rosenblatt has weights to cut or temper",
      kind,
    );
  refuseIdle(inversion, flows.length);
  return { temperature, topK, topP };
}

/** Who asks for a way of inverting the flow that is drawn from expects it to be inverted. */
function refuseIdle(inversion: Inversion | undefined, flows: number): void {
  const drawn = "is drawn from (ancestral, topK, topP), not inverted";
  const idle = (problem: string) => new NoemaError("ERR_INVALID_ARGUMENT", `generate: ${problem}`);
  if (flows === 1 && (inversion === "jacobi" || inversion === "auto"))
    throw idle(`inversion "${inversion}" has no effect: the only flow ${drawn}`);
  if (typeof inversion === "object" && inversion[flows - 1]!.method === "jacobi")
    throw idle(`inversion[${flows - 1}] has no effect: that flow ${drawn}; expected { method: "sequential" }`);
}

function undrawable(why: string, kind: FlowKind): NoemaError {
  return new NoemaError("ERR_UNSUPPORTED", `ancestral: ${why}`, { kind });
}

/** The data's latents are read by the codebook, the state above a flow by that flow's readout. */
export function hasReading(level: number, { flows }: FlowConfig): boolean {
  return level === 0 || flows[level - 1]!.readoutHiddenSize !== undefined;
}

/** What is given in front of a text, in whole patches; `name` it has in errors. */
export function prefixOf(given: ArrayLike<number>, config: FlowConfig, name: string): number[] {
  if (given.length > 0 && !config.prefixConditioning) {
    const message = "this model was trained without prefix conditioning: it writes whole texts, not continuations";
    throw new NoemaError("ERR_UNSUPPORTED", message, { promptTokens: given.length });
  }
  return filledBefore(given, config, name);
}

export function flowCanvas(
  options: FlowGenerateOptions,
  config: FlowConfig,
  tokenizer: Tokenizer | undefined,
  index?: number,
): FlowCanvas {
  const limits = flowLimits(config, tokenizer);
  const { prompt: asked = [] } = options;
  const name = promptName(index);
  const prompt = promptIds(asked, limits, name);
  const starts = options.documentStart ?? (prompt.length === 0 && config.prefixConditioning);
  if (options.documentStart && limits.eosId < 0)
    throw new NoemaError(
      "ERR_UNSUPPORTED",
      "documentStart: the model has no end-of-text token, which starts a document",
    );
  const given = starts && limits.eosId >= 0 ? [limits.eosId, ...prompt] : prompt;
  const prefix = prefixOf(given, config, name);
  const wanted = tokenCount(options.maxTokens, prefix.length, limits.maxPositions, name);
  const temperature = checkNumber(options.temperature ?? 1, { min: 0, max: 10 }, "temperature");
  const added = Math.ceil(wanted / config.patchSize) * config.patchSize;
  return { prefix, added, wanted, promptTokens: given.length, temperature, seed: seedAt(options.seed, index) };
}
