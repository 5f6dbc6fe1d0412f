/** The config and the weights that a run begins with: fresh, from a checkpoint, or from the run's own state. */

import type { AutoregressiveConfig, MaskedConfig, ModelConfig, ThoughtConfig } from "../checkpoint/config.js";
import { type Checkpoint, ofFamily, openCheckpoint } from "../checkpoint/folder.js";
import type { Layout } from "../checkpoint/layout.js";
import { layoutNamed } from "../checkpoint/registry.js";
import { SafetensorsFile } from "../checkpoint/safetensors.js";
import { NoemaError } from "../errors.js";
import type { NativeTensor } from "../native/addon.js";
import { fillNormals } from "../normals.js";
import { Rng, RngStream, type Seed } from "../rng.js";
import { extended, flowConfig, unmeasured, withReadouts } from "./flow/shape.js";
import { flowStart, type Start } from "./flow/weights.js";
import { completeShape, type TrainOptions, type TrainSettings } from "./options.js";
import { readBuffer } from "./state.js";
import { inferenceOf, type ThoughtShape } from "./thought/shape.js";

export type Weights = Extract<NativeTensor, { data: Float32Array }>;

/** What is asked of a tokenizer. */
export interface Vocabulary {
  path: string;
  vocabSize: number;
  idOf(token: string): number | undefined;
  /** Throws when the tokenizer has more ids than the model has rows. */
  checkFits(rows: number): void;
}

/** How tokenizers of masked models write their special tokens. */
const MASK_TOKENS = ["<|mask|>", "<|mdm_mask|>", "[MASK]", "<mask>"];
const EOS_TOKENS = ["<|endoftext|>", "</s>", "[SEP]"];
const PAD_TOKENS = ["<|pad|>", "[PAD]", "<pad>"];

/** The checkpoint's config, or one of the shape asked for, with the tokenizer's ids. */
export async function configOf(
  options: Pick<TrainOptions, "init" | "family" | "shape" | "flow" | "thought" | "run">,
  { length, readouts }: Pick<TrainSettings, "length" | "readouts">,
  vocabulary: Vocabulary,
): Promise<ModelConfig> {
  const { init, run } = options;
  const config = init === undefined ? fresh(options, length, vocabulary) : await continued(init, options, readouts);
  vocabulary.checkFits(config.vocabSize);
  const patch = config.layout === "noema-flow" ? config.patchSize : 1;
  const tokens = config.maxPositions * patch;
  if (length > tokens || length % patch !== 0) {
    const room = `${init ?? run} has ${config.maxPositions} positions${patch > 1 ? ` of ${patch} tokens` : ""}`;
    const message = `train: length is ${length}, but ${room}`;
    throw new NoemaError("ERR_INVALID_ARGUMENT", message, { length, positions: config.maxPositions });
  }
  return config;
}

/** A checkpoint's config; with `flow`, a stack gets more flows, with `readouts` they of every state. */
async function continued(
  init: string,
  { family, flow }: Pick<TrainOptions, "family" | "flow">,
  readouts: number,
): Promise<ModelConfig> {
  const checkpoint: Checkpoint = await openCheckpoint(init);
  if (family !== undefined) ofFamily(checkpoint, family);
  if (flow !== undefined) return extended(ofFamily(checkpoint, "flow").config, flow);
  if (readouts > 0) return withReadouts(unmeasured(ofFamily(checkpoint, "flow").config), readouts);
  const { config } = checkpoint;
  return config.layout === "noema-flow" ? unmeasured(config) : config;
}

function fresh(
  { family, shape, flow, thought }: Pick<TrainOptions, "family" | "shape" | "flow" | "thought">,
  length: number,
  vocabulary: Vocabulary,
): ModelConfig {
  if (family === "autoregressive") return autoregressiveConfig(shape, length, vocabulary);
  if (family === "thought" || thought !== undefined) return thoughtConfig(shape, thought ?? {}, length, vocabulary);
  if (flow === undefined) return maskedConfig(shape, length, vocabulary);
  const sizes = { shape: completeShape(shape), vocabSize: vocabulary.vocabSize, length };
  return flowConfig(flow, { ...sizes, eosTokenId: firstOf(vocabulary, EOS_TOKENS) });
}

function firstOf(vocabulary: Vocabulary, tokens: readonly string[]): number | undefined {
  return tokens.map((token) => vocabulary.idOf(token)).find((id) => id !== undefined);
}

/** What fresh transformers over tokens have in common. */
function transformerSizes(shape: TrainOptions["shape"], length: number, vocabulary: Vocabulary) {
  const { hidden, layers, heads, kvHeads, intermediate, ropeTheta } = completeShape(shape);
  const eosTokenId = firstOf(vocabulary, EOS_TOKENS);
  return {
    ...{ vocabSize: vocabulary.vocabSize, hiddenSize: hidden, numLayers: layers },
    ...{ numHeads: heads, numKvHeads: kvHeads, intermediateSize: intermediate, maxPositions: length, ropeTheta },
    rmsNormEps: 1e-5,
    ...(eosTokenId !== undefined && { eosTokenId }),
  };
}

/**
 * The end-of-text token, which precedes every document but the first, begins every window: no row of the vocabulary is added.
 * Embedding and head share nothing, as a flow's input and head do not: it learns faster so, and a baseline is to be a strong one.
 */
function autoregressiveConfig(
  shape: TrainOptions["shape"],
  length: number,
  vocabulary: Vocabulary,
): AutoregressiveConfig {
  const sizes = transformerSizes(shape, length, vocabulary);
  return checked({ layout: "noema-autoregressive", ...sizes, ...ends(sizes, vocabulary), tiedEmbeddings: false });
}

/** As many heads of keys as of queries, as in the released model. */
function thoughtConfig(
  shape: TrainOptions["shape"],
  thought: ThoughtShape,
  length: number,
  vocabulary: Vocabulary,
): ThoughtConfig {
  const { numKvHeads: _, ...sizes } = transformerSizes(shape, length, vocabulary);
  const { latents = 8 * sizes.numLayers, window = 256, tied = true } = thought;
  return checked({
    ...{ layout: "noema-thought", ...sizes, ...ends(sizes, vocabulary), tiedEmbeddings: tied },
    ...{ attentionWindow: window, numLatents: latents, inference: inferenceOf(thought) },
  });
}

/** What begins a window is what ended the text before it. */
function ends({ eosTokenId }: { eosTokenId?: number }, vocabulary: Vocabulary) {
  if (eosTokenId !== undefined) return { eosTokenId, bosTokenId: eosTokenId };
  const message = `${vocabulary.path}: no end-of-text token; one of ${EOS_TOKENS.join(", ")} must be in the vocabulary`;
  throw new NoemaError("ERR_BAD_TOKENIZER", message);
}

/** Refuses sizes that do not fit together, as it would when the checkpoint is read. */
function checked<C extends MaskedConfig | AutoregressiveConfig | ThoughtConfig>(config: C): C {
  const layout: Layout = layoutNamed(config.layout);
  return layout.parse({ path: "shape", values: layout.config(config) }) as C;
}

function maskedConfig(shape: TrainOptions["shape"], length: number, vocabulary: Vocabulary): MaskedConfig {
  const find = (tokens: readonly string[]) => firstOf(vocabulary, tokens);
  const maskTokenId = find(MASK_TOKENS);
  if (maskTokenId === undefined) {
    const message = `${vocabulary.path}: no mask token; one of ${MASK_TOKENS.join(", ")} must be in the vocabulary`;
    throw new NoemaError("ERR_BAD_TOKENIZER", message);
  }
  const padTokenId = find(PAD_TOKENS);
  const sizes = transformerSizes(shape, length, vocabulary);
  const pad = padTokenId === undefined ? {} : { padTokenId };
  return checked({ layout: "llada", ...sizes, maskTokenId, tiedEmbeddings: true, ...pad });
}

/** The parameters of the run's saved state. */
export async function savedWeights(run: string, config: ModelConfig): Promise<Weights[]> {
  const weights: Weights[] = [];
  for await (const tensor of readBuffer(run, "parameter", tensorsOf(config))) weights.push({ ...tensor, dtype: "f32" });
  return weights;
}

/** The checkpoint's weights, as far as the config wants them, and fresh ones for what it does not have. */
export async function firstWeights(init: string | undefined, config: ModelConfig, seed: Seed): Promise<Weights[]> {
  if (init === undefined) return freshWeights(config, seed);
  const { tensors } = await openCheckpoint(init);
  const wanted = new Set(tensorsOf(config).map(({ name }) => name));
  const weights = freshWeights(config, seed).filter(({ name }) => !tensors.has(name));
  for (const [name, { path, name: stored, shape }] of tensors) {
    if (!wanted.has(name)) continue;
    await using file = await SafetensorsFile.open(path);
    weights.push({ name, shape: [...shape], dtype: "f32", data: await file.readFloat32(stored) });
  }
  return weights;
}

function tensorsOf(config: ModelConfig): { name: string; shape: number[] }[] {
  const layout: Layout = layoutNamed(config.layout);
  return layout.tensors(config).map(({ canonical, shape }) => ({ name: canonical, shape }));
}

const STANDARD_DEVIATION = 0.02;

/**
 * Normal with standard deviation 0.02; what adds to the residual stream is scaled by 1 / sqrt(2 L), so that 2 L additions
 * leave its variance as it was; norms are 1, biases 0. Flows have rules of their own for what is not a transformer's.
 */
export function freshWeights(config: ModelConfig, seed: Seed): Weights[] {
  const rng = new Rng(seed);
  return tensorsOf(config).map(({ name, shape }, index) => {
    const data = new Float32Array(shape.reduce((product, extent) => product * extent, 1));
    const start = config.layout === "noema-flow" ? flowStart(name, config) : transformerStart(shape, name, config);
    if (typeof start === "number") fillNormals(rng, { stream: RngStream.init, step: index }, data, start);
    else data.set(data.map((_, i) => start(i)));
    return { name, shape, dtype: "f32", data };
  });
}

function transformerStart(shape: readonly number[], name: string, { numLayers }: { numLayers: number }): Start {
  if (name.endsWith(".bias")) return () => 0;
  if (shape.length === 1) return () => 1;
  const residual = name.endsWith(".o.weight") || name.endsWith(".down.weight");
  return residual ? STANDARD_DEVIATION / Math.sqrt(2 * numLayers) : STANDARD_DEVIATION;
}
