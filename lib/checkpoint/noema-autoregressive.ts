/** noema's own layout for autoregressive transformers: Llama's names. */

import type { JsonObject } from "../json.js";
import { blockTensors, headCount, keyHeadCount, WIDTH } from "./block.js";
import { type AutoregressiveConfig, boolean, type ConfigFile, integer, number, optionalInteger } from "./config.js";
import type { Layout, TensorSpec } from "./layout.js";

function parse(config: ConfigFile): AutoregressiveConfig {
  const vocabSize = integer(config, "vocab_size", { min: 2, max: 1 << 24 });
  const hiddenSize = integer(config, "hidden_size", WIDTH);
  const numHeads = headCount(config, hiddenSize);
  const id = { min: 0, max: vocabSize - 1 };
  const eosTokenId = optionalInteger(config, "eos_token_id", id);
  return {
    layout: "noema-autoregressive",
    ...{ vocabSize, hiddenSize, numHeads },
    numKvHeads: keyHeadCount(config, numHeads),
    numLayers: integer(config, "num_hidden_layers", { min: 1, max: 1024 }),
    intermediateSize: integer(config, "intermediate_size", { min: 1, max: 1 << 22 }),
    maxPositions: integer(config, "max_position_embeddings", { min: 1, max: 1 << 24 }),
    ropeTheta: number(config, "rope_theta", { min: 1, max: 1e12 }),
    rmsNormEps: number(config, "rms_norm_eps", { min: 1e-12, max: 0.1 }),
    tiedEmbeddings: boolean(config, "tie_word_embeddings"),
    bosTokenId: integer(config, "bos_token_id", id),
    ...(eosTokenId !== undefined && { eosTokenId }),
  };
}

function tensors({ vocabSize: V, hiddenSize: C, intermediateSize: F, ...config }: AutoregressiveConfig): TensorSpec[] {
  const keys = (C / config.numHeads) * config.numKvHeads;
  const blocks = Array.from({ length: config.numLayers }, (_, i) => blockTensors(`layers.${i}.`, { C, F, keys }));
  const head = { name: "lm_head.weight", canonical: "head.weight", shape: [V, C] };
  return [
    { name: "embed_tokens.weight", canonical: "embed.weight", shape: [V, C] },
    ...blocks.flat(),
    { name: "norm.weight", canonical: "norm.weight", shape: [C] },
    ...(config.tiedEmbeddings ? [] : [head]),
  ];
}

function toJson(config: AutoregressiveConfig): JsonObject {
  return {
    model_type: "noema-autoregressive",
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    num_hidden_layers: config.numLayers,
    num_attention_heads: config.numHeads,
    num_key_value_heads: config.numKvHeads,
    intermediate_size: config.intermediateSize,
    max_position_embeddings: config.maxPositions,
    rope_theta: config.ropeTheta,
    rms_norm_eps: config.rmsNormEps,
    tie_word_embeddings: config.tiedEmbeddings,
    bos_token_id: config.bosTokenId,
    ...(config.eosTokenId !== undefined && { eos_token_id: config.eosTokenId }),
  };
}

export const noemaAutoregressive: Layout<AutoregressiveConfig> = {
  name: "noema-autoregressive",
  family: "autoregressive",
  prefixes: [""],
  anchor: "embed_tokens.weight",
  buffers: /(?!)/,
  sniff: (values) => values.model_type === "noema-autoregressive",
  parse,
  tensors,
  config: toJson,
};
