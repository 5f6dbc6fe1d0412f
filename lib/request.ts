/** What callers of generate and infill may ask for, checked and turned into canvases. */

import {
  checkNames,
  checkNumber,
  checkSignal,
  invalid,
  isList,
  parseOptions,
  sharedOptions,
} from "./decoding/options.js";
import type { Decoding } from "./decoding/resolve.js";
import { NoemaError } from "./errors.js";
import type { Canvas } from "./job.js";
import { type Seed, seedWords } from "./rng.js";
import { Stretch } from "./stretch.js";
import { idsKept, type Tokenizer } from "./tokenizer/tokenizer.js";

/** Text, or token ids. */
export type Prompt = string | ArrayLike<number>;

export interface RunOptions {
  /** A rule's name, or { rule, ...options }. Default: "conv". */
  decoding?: Decoding;
  /** Fixes the output. Default: 0. */
  seed?: Seed;
  /** Ends the run with ERR_ABORTED: the signal's reason is the error's cause, what was made so far its `partial`. */
  signal?: AbortSignal;
}

export interface GenerateOptions extends RunOptions {
  /** Default: empty, which writes a text from its start. */
  prompt?: Prompt;
  /** Default: 128, or what the model's positions leave. */
  maxTokens?: number;
  /** Puts an end-of-text token, which separates texts in training, before the prompt. Default: when the prompt is empty. */
  documentStart?: boolean;
  /** Also report every step as a refine event. */
  refine?: boolean;
}

export interface BatchOptions extends Omit<GenerateOptions, "prompt" | "refine"> {
  prompts: readonly Prompt[];
}

export interface InfillOptions extends RunOptions {
  /** Text with holes: "[mask]" for one token, "[mask:12]" for twelve. Needs a tokenizer. */
  text?: string;
  /** Instead of text: token ids, with null (or the mask token) in the holes. */
  ids?: ArrayLike<number | null>;
  refine?: boolean;
}

/** What requests are checked against. */
export interface Limits {
  readonly vocabSize: number;
  readonly maxPositions: number;
  readonly maskId: number;
  readonly eosId: number;
  readonly tokenizer: Tokenizer | undefined;
}

const defaultMaxTokens = 128;
const runOptions = ["decoding", "seed", "signal"];
export const generateOptions = [...runOptions, "prompt", "maxTokens", "documentStart", "refine"];
export const batchOptions = [...runOptions, "prompts", "maxTokens", "documentStart"];
export const infillOptions = [...runOptions, "text", "ids", "refine"];

/** Refuses what is no options object or has unknown keys, and points decoding options to their place. */
export function checkKeys(options: unknown, allowed: readonly string[], what: string): void {
  const misplaced = Object.keys(Object(options)).find((name) => Object.hasOwn(sharedOptions, name));
  if (misplaced !== undefined) {
    const message = `unknown option "${misplaced}"; it belongs in decoding: { ${misplaced}: ... }`;
    throw new NoemaError("ERR_UNKNOWN_OPTION", message, { name: misplaced });
  }
  checkNames(options, allowed, what);
  const { signal, ...others } = options as RunOptions;
  checkSignal(signal);
  parseOptions(pick(others, ["documentStart", "refine"]), flags, what);
}

const flags = {
  documentStart: { kind: "flag", default: false, what: "" },
  refine: { kind: "flag", default: false, what: "" },
} as const;

function pick(options: object, names: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).filter(([name]) => names.includes(name)));
}

/** The seed of the sequence at `index`: one more than that of the one before it, modulo 2^64. */
export function seedAt(seed: Seed | undefined, index = 0): bigint {
  const [low, high] = seedWords(seed ?? 0);
  return BigInt.asUintN(64, ((BigInt(high) << 32n) | BigInt(low)) + BigInt(index));
}

/** Refuses what is no list of prompts; what each of them is, is checked where it is read. */
export function checkPrompts(prompts: unknown): asserts prompts is readonly Prompt[] {
  if (!Array.isArray(prompts)) throw invalid("prompts", prompts, "a list of prompts");
  const missing = [...prompts].indexOf(undefined); // spread, for holes are seen then
  if (missing >= 0) throw invalid(promptName(missing), undefined, "a string or a list of token ids");
}

/** One canvas per prompt, made in stretches: a batch may have more text than can be tokenised at once without holding the event loop. */
export async function canvasesOf<Canvas>(
  prompts: readonly Prompt[],
  canvasOf: (prompt: Prompt, index: number) => Canvas,
): Promise<Canvas[]> {
  const stretch = new Stretch();
  const made: Canvas[] = [];
  for (const [index, prompt] of [...prompts].entries()) {
    made.push(canvasOf(prompt, index));
    await stretch.rest();
  }
  return made;
}

/** What a prompt is called in messages: it is the only one, or one of a batch. */
export const promptName = (index: number | undefined): string => (index === undefined ? "prompt" : `prompts[${index}]`);

export function generateCanvas(options: Omit<GenerateOptions, "refine">, limits: Limits, index?: number): Canvas {
  const { prompt: asked = [] } = options;
  const prompt = promptIds(asked, limits, promptName(index));
  const starts = options.documentStart ?? prompt.length === 0;
  const given = starts && limits.eosId >= 0 ? [limits.eosId, ...prompt] : prompt;
  const count = tokenCount(options.maxTokens, given.length, limits.maxPositions, promptName(index));
  return {
    ids: Int32Array.from([...given, ...new Array<number>(count).fill(limits.maskId)]),
    from: given.length,
    eosFrom: given.length,
    promptTokens: given.length,
    seed: seedAt(options.seed, index),
  };
}

/** New tokens: as many as asked for, or as there is room for within the usual number. */
export function tokenCount(asked: number | undefined, given: number, maxPositions: number, name: string): number {
  const room = maxPositions - given;
  const count = asked === undefined ? Math.min(defaultMaxTokens, Math.max(1, room)) : asked;
  checkNumber(count, { min: 0, integer: true }, "maxTokens");
  if (count <= room) return count;
  const message = `${name}: ${given} tokens and ${count} new ones need ${given + count} positions; the model has ${maxPositions}`;
  throw new NoemaError("ERR_PROMPT_TOO_LONG", message, { name, promptTokens: given, maxTokens: count, maxPositions });
}

/** Text that looks like a special token stays text; ids must exist and may not be the mask. */
export function promptIds(prompt: Prompt, limits: Limits, name: string): number[] {
  if (typeof prompt === "string") return idsKept(encode(prompt, limits, name), prompt, name);
  if (!isList(prompt)) throw invalid(name, prompt, "a string or a list of token ids");
  checkLength(prompt, limits, name);
  return Array.from(prompt, (id, i) => {
    checkId(id, limits, `${name}[${i}]`);
    if (id === limits.maskId) throw invalid(`${name}[${i}]`, id, "no mask token (infill takes texts with holes)");
    return id;
  });
}

/** Ids are looked at one by one: more than the model has positions for would hold the event loop, only to be refused then. */
function checkLength({ length }: ArrayLike<unknown>, { maxPositions }: Limits, name: string): void {
  if (length <= maxPositions) return;
  const message = `${name} has ${length} tokens; the model has ${maxPositions} positions`;
  throw new NoemaError("ERR_PROMPT_TOO_LONG", message, { name, tokens: length, maxPositions });
}

function encode(text: string, { tokenizer, maxPositions }: Limits, name: string): number[] {
  if (text === "") return [];
  if (!tokenizer) {
    throw new NoemaError("ERR_BAD_TOKENIZER", `the model's folder has no tokenizer.json, so ${name} must be token ids`);
  }
  // Tokenising megabytes would hold the event loop for seconds, only to refuse them then.
  const least = tokenizer.leastTokens(text);
  if (least > maxPositions) {
    const message = `${name} takes at least ${least} tokens; the model has ${maxPositions} positions`;
    throw new NoemaError("ERR_PROMPT_TOO_LONG", message, { name, leastTokens: least, maxPositions });
  }
  return Array.from(tokenizer.encode(text));
}

function checkId(id: unknown, { vocabSize }: Limits, name: string): void {
  checkNumber(id, { min: 0, max: vocabSize - 1, integer: true }, name);
}

const marker = /\[mask(?::(\d{1,6}))?\]/g;

export function infillCanvas(options: InfillOptions, limits: Limits): Canvas {
  const { text, ids, seed } = options;
  if ((text === undefined) === (ids === undefined)) {
    throw new NoemaError("ERR_INVALID_ARGUMENT", "infill: expected either text or ids");
  }
  const made = text === undefined ? holesFromIds(ids, limits) : holesFromText(text, limits);
  if (made.length > limits.maxPositions) {
    const message = `the text has ${made.length} positions, the model ${limits.maxPositions}`;
    throw new NoemaError("ERR_PROMPT_TOO_LONG", message, { positions: made.length, maxPositions: limits.maxPositions });
  }
  const canvas = Int32Array.from(made);
  const promptTokens = canvas.filter((id) => id !== limits.maskId).length;
  return { ids: canvas, from: 0, eosFrom: -1, promptTokens, seed: seedAt(seed) };
}

function holesFromIds(ids: unknown, limits: Limits): number[] {
  if (!isList(ids)) throw invalid("ids", ids, "a list of token ids, null in the holes");
  checkLength(ids, limits, "ids");
  return Array.from(ids as ArrayLike<number | null>, (id, i) => {
    if (id === null) return limits.maskId;
    checkId(id, limits, `ids[${i}]`);
    return id;
  });
}

function holesFromText(text: unknown, limits: Limits): number[] {
  if (typeof text !== "string") throw invalid("text", text, "a string");
  let made: number[] = [];
  let last = 0;
  for (const match of text.matchAll(marker)) {
    const holes = Math.min(Number(match[1] ?? 1), limits.maxPositions + 1);
    made = made.concat(
      encode(text.slice(last, match.index), limits, "text"),
      new Array<number>(holes).fill(limits.maskId),
    );
    last = match.index + match[0].length;
    if (made.length > limits.maxPositions) return made; // what follows cannot make it fit
  }
  return made.concat(encode(text.slice(last), limits, "text"));
}
