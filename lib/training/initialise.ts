/** The config and the weights that a run begins with: fresh, from a checkpoint, or from the run's own state. */

import type { MaskedConfig } from "../checkpoint/config.js";
import { openCheckpoint } from "../checkpoint/folder.js";
import { layoutNamed } from "../checkpoint/registry.js";
import { SafetensorsFile } from "../checkpoint/safetensors.js";
import { NoemaError } from "../errors.js";
import type { NativeTensor } from "../native/addon.js";
import { Rng, RngStream, type Seed, toUniform } from "../rng.js";
import { completeShape, type TrainOptions, type TrainSettings } from "./options.js";
import { readBuffer } from "./state.js";

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
  { init, shape, run }: Pick<TrainOptions, "init" | "shape" | "run">,
  { length }: Pick<TrainSettings, "length">,
  vocabulary: Vocabulary,
): Promise<MaskedConfig> {
  const config = init === undefined ? freshConfig(shape, length, vocabulary) : (await openCheckpoint(init)).config;
  vocabulary.checkFits(config.vocabSize);
  if (length > config.maxPositions) {
    const message = `train: length is ${length}, but ${init ?? run} has ${config.maxPositions} positions`;
    throw new NoemaError("ERR_INVALID_ARGUMENT", message, { length, positions: config.maxPositions });
  }
  return config;
}

function freshConfig(shape: TrainOptions["shape"], length: number, vocabulary: Vocabulary): MaskedConfig {
  const { hidden, layers, heads, kvHeads, intermediate, ropeTheta } = completeShape(shape);
  const find = (tokens: readonly string[]) =>
    tokens.map((token) => vocabulary.idOf(token)).find((id) => id !== undefined);
  const maskTokenId = find(MASK_TOKENS);
  if (maskTokenId === undefined) {
    const message = `${vocabulary.path}: no mask token; one of ${MASK_TOKENS.join(", ")} must be in the vocabulary`;
    throw new NoemaError("ERR_BAD_TOKENIZER", message);
  }
  const eosTokenId = find(EOS_TOKENS);
  const padTokenId = find(PAD_TOKENS);
  const config: MaskedConfig = {
    ...{ layout: "llada", vocabSize: vocabulary.vocabSize, hiddenSize: hidden, numLayers: layers },
    ...{ numHeads: heads, numKvHeads: kvHeads, intermediateSize: intermediate, maxPositions: length, ropeTheta },
    ...{ rmsNormEps: 1e-5, maskTokenId, tiedEmbeddings: true },
    ...(eosTokenId !== undefined && { eosTokenId }),
    ...(padTokenId !== undefined && { padTokenId }),
  };
  const layout = layoutNamed(config.layout);
  // Refuses sizes that do not fit together, as it would when the checkpoint is read.
  return layout.parse({ path: "shape", values: layout.config(config) });
}

/** The parameters of the run's saved state. */
export async function savedWeights(run: string, config: MaskedConfig): Promise<Weights[]> {
  const weights: Weights[] = [];
  for await (const tensor of readBuffer(run, "parameter", tensorsOf(config))) weights.push({ ...tensor, dtype: "f32" });
  return weights;
}

/** The checkpoint's weights, or fresh ones. */
export async function firstWeights(init: string | undefined, config: MaskedConfig, seed: Seed): Promise<Weights[]> {
  if (init === undefined) return freshWeights(config, seed);
  const weights: Weights[] = [];
  for (const [name, { path, name: stored, shape }] of (await openCheckpoint(init)).tensors) {
    await using file = await SafetensorsFile.open(path);
    weights.push({ name, shape: [...shape], dtype: "f32", data: await file.readFloat32(stored) });
  }
  return weights;
}

function tensorsOf(config: MaskedConfig): { name: string; shape: number[] }[] {
  const specs = layoutNamed(config.layout).tensors(config);
  return specs.map(({ canonical, shape }) => ({ name: canonical, shape }));
}

const STANDARD_DEVIATION = 0.02;

/**
 * Normal with standard deviation 0.02; what adds to the residual stream is scaled by 1 / sqrt(2 L), so that 2 L additions
 * leave its variance as it was; norms are 1.
 */
export function freshWeights(config: MaskedConfig, seed: Seed): Weights[] {
  const rng = new Rng(seed);
  return tensorsOf(config).map(({ name, shape }, index) => {
    const size = shape.reduce((product, extent) => product * extent, 1);
    const data =
      shape.length === 1 ? new Float32Array(size).fill(1) : normals(rng, index, size, deviation(name, config));
    return { name, shape, dtype: "f32", data };
  });
}

function deviation(name: string, config: MaskedConfig): number {
  const residual = name.endsWith(".o.weight") || name.endsWith(".down.weight");
  return residual ? STANDARD_DEVIATION / Math.sqrt(2 * config.numLayers) : STANDARD_DEVIATION;
}

/** Draws per refill of the scratch block: a multiple of 4 (one Philox block) that stays in the first-level cache. */
const BLOCK = 4096;

/** Box-Muller on pairs of uniforms: uniforms lie in (0, 1), so the logarithm is finite. */
function normals(rng: Rng, tensor: number, size: number, scale: number): Float32Array {
  const out = new Float32Array(size);
  const draws = new Uint32Array(BLOCK);
  for (let start = 0; start < size; start += BLOCK) {
    rng.fill(draws, { stream: RngStream.init, step: tensor, row: start / BLOCK });
    for (let i = 0; i < Math.min(BLOCK, size - start); i += 2) {
      const radius = scale * Math.sqrt(-2 * Math.log(toUniform(draws[i]!)));
      const angle = 2 * Math.PI * toUniform(draws[i + 1]!);
      out[start + i] = radius * Math.cos(angle);
      if (start + i + 1 < size) out[start + i + 1] = radius * Math.sin(angle);
    }
  }
  return out;
}
