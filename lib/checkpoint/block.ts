/** The transformer block under Llama's names, which noema's own layouts and Dream's have: pre-norm, RoPE, SwiGLU. */

import type { JsonObject } from "../json.js";
import {
  badValue,
  boolean,
  type ConfigFile,
  integer,
  number,
  optionalInteger,
  type TransformerConfig,
} from "./config.js";
import type { TensorSpec } from "./layout.js";

/** Generous, yet products of any two stay exact. */
export const WIDTH = { min: 2, max: 1 << 20 };

/** Heads of even width, which RoPE turns in pairs. */
export function headCount(config: ConfigFile, hiddenSize: number): number {
  const numHeads = integer(config, "num_attention_heads", { min: 1, max: hiddenSize });
  if (hiddenSize % (2 * numHeads) === 0) return numHeads;
  const expected = `a number that cuts hidden_size = ${hiddenSize} into heads of even width`;
  throw badValue(config, "num_attention_heads", expected);
}

/** Heads of keys and values, as many as of queries where nothing is said. */
export function keyHeadCount(config: ConfigFile, numHeads: number): number {
  const numKvHeads = optionalInteger(config, "num_key_value_heads", { min: 1, max: numHeads }) ?? numHeads;
  if (numHeads % numKvHeads === 0) return numKvHeads;
  throw badValue(config, "num_key_value_heads", `a divisor of num_attention_heads = ${numHeads}`);
}

export interface BlockSizes {
  C: number;
  F: number;
  /** Rows of the keys' and the values' projections. Default: C. */
  keys?: number;
}

/** The tensors of the block whose names begin with `at`. */
export function blockTensors(at: string, { C, F, keys = C }: BlockSizes): TensorSpec[] {
  const table: [name: string, canonical: string, shape: number[]][] = [
    ["self_attn.q_proj", "q", [C, C]],
    ["self_attn.k_proj", "k", [keys, C]],
    ["self_attn.v_proj", "v", [keys, C]],
    ["self_attn.o_proj", "o", [C, C]],
    ["mlp.gate_proj", "gate", [F, C]],
    ["mlp.up_proj", "up", [F, C]],
    ["mlp.down_proj", "down", [C, F]],
    ["input_layernorm", "attention_norm", [C]],
    ["post_attention_layernorm", "mlp_norm", [C]],
  ];
  return table.map(([name, own, shape]) => {
    return { name: `${at}${name}.weight`, canonical: `${at}${own}.weight`, shape };
  });
}

/** What configs under Llama's names have in common, and the range of token ids. */
export function transformerConfig(config: ConfigFile): { sizes: TransformerConfig; id: { min: number; max: number } } {
  const vocabSize = integer(config, "vocab_size", { min: 2, max: 1 << 24 });
  const hiddenSize = integer(config, "hidden_size", WIDTH);
  const numHeads = headCount(config, hiddenSize);
  const id = { min: 0, max: vocabSize - 1 };
  const eosTokenId = optionalInteger(config, "eos_token_id", id);
  const sizes = {
    ...{ vocabSize, hiddenSize, numHeads },
    numKvHeads: keyHeadCount(config, numHeads),
    numLayers: integer(config, "num_hidden_layers", { min: 1, max: 1024 }),
    intermediateSize: integer(config, "intermediate_size", { min: 1, max: 1 << 22 }),
    maxPositions: integer(config, "max_position_embeddings", { min: 1, max: 1 << 24 }),
    ropeTheta: number(config, "rope_theta", { min: 1, max: 1e12 }),
    rmsNormEps: number(config, "rms_norm_eps", { min: 1e-12, max: 0.1 }),
    tiedEmbeddings: boolean(config, "tie_word_embeddings"),
    ...(eosTokenId !== undefined && { eosTokenId }),
  };
  return { sizes, id };
}

/** The same as a config.json says it, but for the end-of-text token. */
export function transformerJson(config: TransformerConfig): JsonObject {
  return {
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
  };
}

/** A language model's tensors: the embedding, blocks, the final norm, and a head where it is not the embedding. */
export interface LanguageModelTensors {
  readonly config: TransformerConfig;
  /** In front of all names but the head's. */
  readonly prefix?: string;
  /** Of a block, besides its own; `at` is where their names begin. */
  readonly extra?: (at: string, sizes: Required<BlockSizes>) => TensorSpec[];
}

export function languageModelTensors({ config, prefix = "", extra = () => [] }: LanguageModelTensors): TensorSpec[] {
  const { vocabSize: V, hiddenSize: C, intermediateSize: F } = config;
  const sizes = { C, F, keys: (C / config.numHeads) * config.numKvHeads };
  const blocks = Array.from({ length: config.numLayers }, (_, i) => {
    const at = `layers.${i}.`;
    return [...blockTensors(at, sizes), ...extra(at, sizes)];
  });
  const inside = [
    { name: "embed_tokens.weight", canonical: "embed.weight", shape: [V, C] },
    ...blocks.flat(),
    { name: "norm.weight", canonical: "norm.weight", shape: [C] },
  ];
  const head = { name: "lm_head.weight", canonical: "head.weight", shape: [V, C] };
  const named = inside.map((tensor) => ({ ...tensor, name: prefix + tensor.name }));
  return config.tiedEmbeddings ? named : [...named, head];
}
