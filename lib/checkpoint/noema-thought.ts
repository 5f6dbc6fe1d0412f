/** noema's own layout for Latent Thought Models: the shared block with a cross-attention to the layer's latents in its middle. */

import { isObject, type JsonObject } from "../json.js";
import { blockTensors, headCount, WIDTH } from "./block.js";
import {
  badValue,
  boolean,
  type ConfigFile,
  type Inference,
  integer,
  number,
  oneOf,
  optionalInteger,
  type ThoughtConfig,
} from "./config.js";
import type { Layout, TensorSpec } from "./layout.js";

/** Latents of one layer: the most that the cross-attention takes. */
const LATENTS = 64;
/** Of the fast loop's settings: what `fitSettings` takes, so that a checkpoint that is read can be used. */
export const fastLoopRanges = {
  steps: { min: 0, max: 1 << 16 },
  rate: { min: 0, max: 10 },
  logVarianceInit: { min: -30, max: 10 },
};

const schedules: readonly Inference["schedule"][] = ["linear", "cosine", "constant"];
const noises: readonly Inference["noise"][] = ["resample", "shared"];

/** Two numbers; one alone is both. */
function rates(config: ConfigFile): [number, number] {
  const value = config.values.learning_rate;
  const list = typeof value === "number" ? [value] : value;
  const { min, max } = fastLoopRanges.rate;
  const isRate = (rate: unknown): rate is number => typeof rate === "number" && rate >= min && rate <= max;
  if (Array.isArray(list) && list.length >= 1 && list.length <= 2 && list.every(isRate))
    return [list[0]!, list.at(-1)!];
  throw badValue(config, "learning_rate", `two numbers ${min} .. ${max}`);
}

/** @internal The fast loop's settings; expectations of golden cases word them alike. */
export function parseInference(config: ConfigFile): Inference {
  return {
    steps: integer(config, "steps", fastLoopRanges.steps),
    learningRate: rates(config),
    schedule: oneOf(config, "schedule", schedules),
    logVarianceInit: number(config, "log_variance_init", fastLoopRanges.logVarianceInit),
    noise: oneOf(config, "noise", noises),
    constantLogVariance: Object.hasOwn(config.values, "constant_log_variance")
      ? boolean(config, "constant_log_variance")
      : false,
  };
}

function latentCount(config: ConfigFile, numLayers: number): number {
  const numLatents = integer(config, "num_latents", { min: numLayers, max: numLayers * LATENTS });
  if (numLatents % numLayers === 0) return numLatents;
  throw badValue(config, "num_latents", `a multiple of num_hidden_layers = ${numLayers}`);
}

function parse(config: ConfigFile): ThoughtConfig {
  const vocabSize = integer(config, "vocab_size", { min: 2, max: 1 << 24 });
  const hiddenSize = integer(config, "hidden_size", WIDTH);
  const numHeads = headCount(config, hiddenSize);
  const numLayers = integer(config, "num_hidden_layers", { min: 1, max: 1024 });
  const id = { min: 0, max: vocabSize - 1 };
  const eosTokenId = optionalInteger(config, "eos_token_id", id);
  const { inference } = config.values;
  if (!isObject(inference)) throw badValue(config, "inference", "an object");
  return {
    layout: "noema-thought",
    ...{ vocabSize, hiddenSize, numHeads, numLayers },
    intermediateSize: integer(config, "intermediate_size", { min: 1, max: 1 << 22 }),
    maxPositions: integer(config, "max_position_embeddings", { min: 1, max: 1 << 24 }),
    attentionWindow: integer(config, "attention_window", { min: 1, max: 1 << 24 }),
    numLatents: latentCount(config, numLayers),
    ropeTheta: number(config, "rope_theta", { min: 1, max: 1e12 }),
    rmsNormEps: number(config, "rms_norm_eps", { min: 1e-12, max: 0.1 }),
    tiedEmbeddings: boolean(config, "tie_word_embeddings"),
    bosTokenId: integer(config, "bos_token_id", id),
    ...(eosTokenId !== undefined && { eosTokenId }),
    inference: parseInference({ path: `${config.path}: inference`, values: inference }),
  };
}

/** What reads the latents of the layer whose names begin with `at`. */
function crossTensors(at: string, C: number, M: number): TensorSpec[] {
  const projections = ["q", "k", "v", "o"].map((role) => ({
    name: `${at}cross_attn.${role}_proj.weight`,
    canonical: `${at}cross_${role}.weight`,
    shape: [C, C],
  }));
  return [
    ...projections,
    { name: `${at}cross_attn_layernorm.weight`, canonical: `${at}cross_norm.weight`, shape: [C] },
    {
      name: `${at}cross_attn.latent_embedding.weight`,
      canonical: `${at}latent_embedding.weight`,
      shape: [M, C],
    },
  ];
}

function tensors({ vocabSize: V, hiddenSize: C, intermediateSize: F, ...config }: ThoughtConfig): TensorSpec[] {
  const M = config.numLatents / config.numLayers;
  const layers = Array.from({ length: config.numLayers }, (_, i) => {
    const at = `layers.${i}.`;
    return [...blockTensors(at, { C, F }), ...crossTensors(at, C, M)];
  });
  const head = { name: "lm_head.weight", canonical: "head.weight", shape: [V, C] };
  return [
    { name: "embed_tokens.weight", canonical: "embed.weight", shape: [V, C] },
    ...layers.flat(),
    { name: "norm.weight", canonical: "norm.weight", shape: [C] },
    ...(config.tiedEmbeddings ? [] : [head]),
  ];
}

function inferenceToJson(inference: Inference): JsonObject {
  return {
    steps: inference.steps,
    learning_rate: [...inference.learningRate],
    schedule: inference.schedule,
    log_variance_init: inference.logVarianceInit,
    noise: inference.noise,
    ...(inference.constantLogVariance && { constant_log_variance: true }),
  };
}

function toJson(config: ThoughtConfig): JsonObject {
  return {
    model_type: "noema-thought",
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    num_hidden_layers: config.numLayers,
    num_attention_heads: config.numHeads,
    intermediate_size: config.intermediateSize,
    rope_theta: config.ropeTheta,
    rms_norm_eps: config.rmsNormEps,
    max_position_embeddings: config.maxPositions,
    attention_window: config.attentionWindow,
    num_latents: config.numLatents,
    tie_word_embeddings: config.tiedEmbeddings,
    bos_token_id: config.bosTokenId,
    ...(config.eosTokenId !== undefined && { eos_token_id: config.eosTokenId }),
    inference: inferenceToJson(config.inference),
  };
}

export const noemaThought: Layout<ThoughtConfig> = {
  name: "noema-thought",
  family: "thought",
  prefixes: [""],
  anchor: "embed_tokens.weight",
  buffers: /(?!)/,
  sniff: (values) => values.model_type === "noema-thought",
  parse,
  tensors,
  config: toJson,
};
