/** Traces of published decoders: the ids before every network call and after the last, by the same policies as `generate`. */

import { Decoder, type DecodeTask } from "../decoding/decoder.js";
import { type DecodingOptions, resolveDecoding } from "../decoding/resolve.js";
import type { JsonObject } from "../json.js";
import type { NativeSession, SessionOptions } from "../native/addon.js";
import { type Golden, numberOf } from "./golden.js";
import { inputs, type MaskedCase, type Outcomes, type Recipe, skipGroup, values } from "./recipe.js";

/** A prompt in front of masks, for a batch. */
export interface Start {
  readonly batch: number;
  readonly length: number;
  readonly prompt: number;
  readonly ids: Int32Array;
  readonly maskId: number;
  readonly keyStart?: Int32Array;
}

/** Makes a session: a checkpoint's, or one over given logits. */
export type OpenSession = (options: SessionOptions) => NativeSession;

export const decodingTraces: Recipe = async function* (golden, loaded): Outcomes {
  if (loaded?.family !== "masked") return;
  for (const group of golden.groups()) {
    if (golden.has(`${group}.trace`)) yield* traceGroup(golden, loaded, group);
  }
};

async function* traceGroup(golden: Golden, loaded: MaskedCase, group: string): Outcomes {
  const parameters = golden.parameters(group);
  const reason = reasonToSkip(parameters);
  if (reason !== undefined) {
    yield* skipGroup(golden, group, reason);
    return;
  }
  const start = startOf(golden, group, parameters, loaded.config.maskTokenId);
  yield* inputs(golden, [`${group}.prompt`, `${group}.u`]);
  const open: OpenSession = (options) => loaded.native.session(options);
  yield values(`${group}.trace`, await traceBy(parameters)(open, start, parameters));
}

type Trace = (open: OpenSession, start: Start, parameters: JsonObject) => Promise<number[]>;

function traceBy({ fn, alg }: JsonObject): Trace {
  if (alg !== undefined) return dreamTrace;
  return fn === "Fast-dLLM generate" ? fastTrace : fixedTrace;
}

/** Dream's names of rules, and ours. */
const dreamRules = new Map([
  ["entropy", "entropy"],
  ["topk_margin", "margin"],
  ["maskgit_plus", "low-confidence"],
]);

function reasonToSkipDream({ alg, module, temperature = 0, alg_temp }: JsonObject): string | undefined {
  if (String(module).includes("generation_utils_block")) return "caches are not in this version";
  if (temperature !== 0 || (alg_temp ?? 0) !== 0) return "a temperature draws from torch's generator";
  return dreamRules.has(String(alg)) ? undefined : `"${String(alg)}" is not in this version`;
}

const remaskings = ["low_confidence", undefined, null];

function reasonToSkip(parameters: JsonObject): string | undefined {
  const { fn, alg, temperature = 0, remasking, factor } = parameters;
  if (alg !== undefined) return reasonToSkipDream(parameters);
  if (fn === "Fast-dLLM generate_with_prefix_cache" || fn === "Fast-dLLM generate_with_dual_cache") {
    return "caches are not in this version";
  }
  if (fn === "generate_yb") return "by another recipe";
  if (!["LLaDA generate", "Fast-dLLM generate", "generate_llada_convolution"].includes(String(fn))) {
    return `"${String(fn)}" is not in this version`;
  }
  if (temperature !== 0) return "a temperature draws from torch's generator";
  if (factor !== undefined && factor !== null) return "the factor rule is not in this version";
  return remaskings.includes(remasking as string)
    ? undefined
    : `remasking "${String(remasking)}" is not in this version`;
}

export function startOf(golden: Golden, group: string, parameters: JsonObject, maskId: number): Start {
  const { shape, values: prompt } = golden.get(`${group}.prompt`);
  const [batch = 1, given = 0] = shape;
  const length = given + numberOf(parameters, "gen_length");
  const ids = new Int32Array(batch * length).fill(numberOf(parameters, "mask_id", maskId));
  for (let b = 0; b < batch; b++) ids.set(prompt.slice(b * given, (b + 1) * given), b * length);
  const padding = padLeft(ids, length, parameters);
  return { batch, length, prompt: given, ids, maskId: numberOf(parameters, "mask_id", maskId), ...padding };
}

/** Rows with padding, and how much: "left_pad_row1": 3, or in words. */
function leftPads(parameters: JsonObject): [row: number, count: number][] {
  const words = /row (\d+): first (\d+) prompt ids replaced by pad/.exec(String(parameters["note"]));
  if (words) return [[Number(words[1]), Number(words[2])]];
  return Object.keys(parameters).flatMap((name) => {
    const row = /^left_pad_row(\d+)$/.exec(name);
    return row ? [[Number(row[1]), numberOf(parameters, name)]] : [];
  });
}

/** Writes pad_id over the first tokens of such rows and hides them. */
function padLeft(ids: Int32Array, length: number, parameters: JsonObject): { keyStart?: Int32Array } {
  const keyStart = new Int32Array(ids.length / length);
  for (const [b, count] of leftPads(parameters)) {
    keyStart[b] = count;
    ids.fill(numberOf(parameters, "pad_id"), b * length, b * length + count);
  }
  return keyStart.some((first) => first > 0) ? { keyStart } : {};
}

export function sessionOptions(start: Start, parameters: JsonObject): SessionOptions {
  const { batch, length, ids, keyStart, maskId } = start;
  const scale = numberOf(parameters, "cfg_scale", 0);
  const prompt = Uint8Array.from(ids, (id) => (id === maskId ? 0 : 1));
  return {
    batch,
    length,
    ids,
    seeds: new BigUint64Array(batch),
    ...(keyStart ? { keyStart, keyEnd: new Int32Array(batch).fill(length) } : {}),
    ...(scale > 0 ? { guidance: { scale, prompt } } : {}),
  };
}

/** Decodes and hands the canvas over: once before, then after every step. */
export async function follow(
  open: OpenSession,
  start: Start,
  parameters: JsonObject,
  decoding: DecodingOptions,
  task: Partial<DecodeTask>,
  onCanvas: (canvas: Int32Array) => void,
): Promise<void> {
  const { batch, length, ids, maskId } = start;
  const session = open(sessionOptions(start, parameters));
  const canvas = (): Int32Array => Int32Array.from(decoder.sequences.flatMap((sequence) => [...sequence.ids]));
  const decoder: Decoder = new Decoder({
    session,
    settings: resolveDecoding({ ...decoding, stopAtEos: false }),
    starts: Array.from({ length: batch }, (_, b) => ({
      ids: ids.slice(b * length, (b + 1) * length),
      seed: 0n,
      eosFrom: -1,
    })),
    maskId,
    eosId: -1,
    onStep: () => onCanvas(canvas()),
    ...task,
  });
  onCanvas(canvas());
  try {
    await decoder.run();
  } finally {
    session.dispose();
  }
}

/** Dream's decoder without caches. */
async function dreamTrace(open: OpenSession, start: Start, parameters: JsonObject): Promise<number[]> {
  const trace: number[] = [];
  const rule = dreamRules.get(String(parameters["alg"]))!;
  const options: DecodingOptions = { rule, steps: numberOf(parameters, "steps"), schedule: "time" };
  await follow(open, start, parameters, options, { excludedId: -1 }, (canvas) => trace.push(...canvas));
  return trace;
}

/** LLaDA's own decoder and Conv's confidence form; nothing bars MASK from the argmax there. */
export async function fixedTrace(open: OpenSession, start: Start, parameters: JsonObject): Promise<number[]> {
  const trace: number[] = [];
  const decoding = parameters["fn"] === "generate_llada_convolution" ? convolution(parameters) : blocks(parameters);
  const options = { ...decoding, steps: numberOf(parameters, "steps") };
  await follow(open, start, parameters, options, { excludedId: -1 }, (canvas) => trace.push(...canvas));
  return trace;
}

function blocks(parameters: JsonObject): DecodingOptions {
  return { rule: "low-confidence", blockLength: numberOf(parameters, "block_length") };
}

/** There, block_length is the kernel. */
function convolution(parameters: JsonObject): DecodingOptions {
  const multiplier = numberOf(parameters, "conv_mult", 1);
  return { rule: "conv", kernel: numberOf(parameters, "block_length"), multiplier };
}

/**
 * Fast-dLLM goes on to the next block when every sequence has finished this one. Sequences do not see each other, so
 * each is decoded for itself, and those that are done early wait in the trace.
 */
async function fastTrace(open: OpenSession, start: Start, parameters: JsonObject): Promise<number[]> {
  const { batch, length, ids, prompt } = start;
  const blockLength = numberOf(parameters, "block_length");
  const blockCount = Math.ceil((length - prompt) / blockLength);
  const runs: Int32Array[][][] = [];
  for (let b = 0; b < batch; b++) {
    const own = { ...start, batch: 1, ids: ids.slice(b * length, (b + 1) * length), ...keysOf(start, b) };
    runs.push(byBlock(await changes(open, own, parameters), start, { blockLength, blockCount }));
  }
  const trace = [...ids];
  for (let block = 0; block < blockCount; block++) {
    const steps = Math.max(...runs.map((run) => run[block]!.length));
    for (let step = 0; step < steps; step++) {
      for (const run of runs) trace.push(...run[block]![Math.min(step, run[block]!.length - 1)]!);
    }
  }
  return trace;
}

function keysOf({ keyStart }: Start, b: number): { keyStart?: Int32Array } {
  return keyStart ? { keyStart: keyStart.slice(b, b + 1) } : {};
}

/** The canvas after every step that changed it: steps without tokens are not run there. */
async function changes(open: OpenSession, start: Start, parameters: JsonObject): Promise<Int32Array[]> {
  const canvases: Int32Array[] = [];
  const { threshold } = parameters;
  const options =
    typeof threshold === "number"
      ? { ...blocks(parameters), rule: "threshold", threshold }
      : { ...blocks(parameters), steps: numberOf(parameters, "steps") };
  const task = { excludedId: -1, maxSteps: 4 * start.length };
  await follow(open, start, parameters, options, task, (canvas) => {
    const last = canvases.at(-1);
    if (!last || canvas.some((id, at) => id !== last[at])) canvases.push(canvas);
  });
  return canvases.slice(1);
}

/** Steps sorted by the block that they worked on: the first with masks before the step. */
function byBlock(
  canvases: readonly Int32Array[],
  { ids, length, prompt, maskId }: Start,
  { blockLength, blockCount }: { blockLength: number; blockCount: number },
): Int32Array[][] {
  const blocksOfSteps: Int32Array[][] = Array.from({ length: blockCount }, () => []);
  let before: Int32Array = ids.slice(0, length).fill(maskId, prompt);
  for (const canvas of canvases) {
    const block = Math.floor((before.indexOf(maskId) - prompt) / blockLength);
    blocksOfSteps[block]?.push(canvas);
    before = canvas;
  }
  return blocksOfSteps;
}
