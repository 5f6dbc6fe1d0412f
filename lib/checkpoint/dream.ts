/** Dream's layout (HKUNLP/Dream): Qwen2's network without a causal mask, whose output at a position predicts the next one. */

import type { JsonObject } from "../json.js";
import { blockTensors, headCount, keyHeadCount, WIDTH } from "./block.js";
import {
  badValue,
  boolean,
  type ConfigFile,
  integer,
  type MaskedConfig,
  number,
  optionalInteger,
  requires,
} from "./config.js";
import type { Layout, TensorSpec } from "./layout.js";

function checkFeatures(config: ConfigFile): void {
  requires(config, "hidden_act", "silu", true);
  requires(config, "use_sliding_window", false, true);
  if (config.values["rope_scaling"] != null)
    throw badValue(config, "rope_scaling", "nothing: this layout does not do it");
}

function parse(config: ConfigFile): MaskedConfig {
  checkFeatures(config);
  const vocabSize = integer(config, "vocab_size", { min: 2, max: 1 << 24 });
  const hiddenSize = integer(config, "hidden_size", WIDTH);
  const numHeads = headCount(config, hiddenSize);
  const id = { min: 0, max: vocabSize - 1 };
  const eosTokenId = optionalInteger(config, "eos_token_id", id);
  const padTokenId = optionalInteger(config, "pad_token_id", id);
  return {
    layout: "dream",
    ...{ vocabSize, hiddenSize, numHeads },
    numKvHeads: keyHeadCount(config, numHeads),
    numLayers: integer(config, "num_hidden_layers", { min: 1, max: 1024 }),
    intermediateSize: integer(config, "intermediate_size", { min: 1, max: 1 << 22 }),
    maxPositions: integer(config, "max_position_embeddings", { min: 1, max: 1 << 24 }),
    ropeTheta: number(config, "rope_theta", { min: 1, max: 1e12 }),
    rmsNormEps: number(config, "rms_norm_eps", { min: 1e-12, max: 0.1 }),
    maskTokenId: integer(config, "mask_token_id", id),
    ...(eosTokenId !== undefined && { eosTokenId }),
    ...(padTokenId !== undefined && { padTokenId }),
    tiedEmbeddings: boolean(config, "tie_word_embeddings"),
    qkvBias: true,
    shifted: true,
  };
}

function tensors({ vocabSize: V, hiddenSize: C, intermediateSize: F, ...config }: MaskedConfig): TensorSpec[] {
  const keys = (C / config.numHeads) * config.numKvHeads;
  const blocks = Array.from({ length: config.numLayers }, (_, i) => {
    const at = `layers.${i}.`;
    const bias = (role: string, size: number) => {
      return { name: `${at}self_attn.${role}_proj.bias`, canonical: `${at}${role}.bias`, shape: [size] };
    };
    return [...blockTensors(at, { C, F, keys }), bias("q", C), bias("k", keys), bias("v", keys)];
  });
  const inside: TensorSpec[] = [
    { name: "embed_tokens.weight", canonical: "embed.weight", shape: [V, C] },
    ...blocks.flat(),
    { name: "norm.weight", canonical: "norm.weight", shape: [C] },
  ];
  const head = { name: "lm_head.weight", canonical: "head.weight", shape: [V, C] };
  return [
    ...inside.map((tensor) => ({ ...tensor, name: `model.${tensor.name}` })),
    ...(config.tiedEmbeddings ? [] : [head]),
  ];
}

function toJson(config: MaskedConfig): JsonObject {
  return {
    model_type: "Dream",
    architectures: ["DreamModel"],
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    num_hidden_layers: config.numLayers,
    num_attention_heads: config.numHeads,
    num_key_value_heads: config.numKvHeads,
    intermediate_size: config.intermediateSize,
    max_position_embeddings: config.maxPositions,
    rope_theta: config.ropeTheta,
    rope_scaling: null,
    rms_norm_eps: config.rmsNormEps,
    hidden_act: "silu",
    use_sliding_window: false,
    mask_token_id: config.maskTokenId,
    eos_token_id: config.eosTokenId ?? null,
    pad_token_id: config.padTokenId ?? null,
    tie_word_embeddings: config.tiedEmbeddings,
  };
}

export const dream: Layout<MaskedConfig> = {
  name: "dream",
  family: "masked",
  prefixes: [""],
  anchor: "model.embed_tokens.weight",
  buffers: /(^|\.)rotary_emb\.inv_freq$/,
  sniff: (values) => values.model_type === "Dream",
  parse,
  tensors,
  config: toJson,
};
