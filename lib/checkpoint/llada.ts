/** LLaDA's layout (ML-GSAI/LLaDA): a Llama-like block under OLMo's names, without a causal mask. */

import type { JsonObject } from "../json.js";
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

/** Generous, yet products of any two stay exact: V * C <= 2^44. */
const WIDTH = { min: 2, max: 1 << 20 };
const IDS = { min: 1, max: 1 << 24 };

/** Where the published code's own default is something else, silence does not mean this layout: the key must be there. */
function checkFeatures(config: ConfigFile): void {
  requires(config, "block_type", "llama");
  requires(config, "activation_type", "silu");
  requires(config, "layer_norm_type", "rms");
  requires(config, "include_bias", false);
  requires(config, "rope", true);
  requires(config, "alibi", false, true);
  requires(config, "include_qkv_bias", false, true);
  requires(config, "bias_for_layer_norm", false, true);
  requires(config, "layer_norm_with_affine", true, true);
  requires(config, "attention_layer_norm", false, true);
  requires(config, "input_emb_norm", false, true);
  requires(config, "scale_logits", false, true);
  requires(config, "multi_query_attention", false, true);
  requires(config, "block_group_size", 1, true);
  // Clipping q, k and v, and stretched positions, exist in relatives of the published code: any value is too much.
  for (const key of ["clip_qkv", "rope_scaling"]) {
    if (config.values[key] != null) throw badValue(config, key, "nothing: this layout does not do it");
  }
}

function headCounts(config: ConfigFile, hiddenSize: number): Pick<MaskedConfig, "numHeads" | "numKvHeads"> {
  const numHeads = integer(config, "n_heads", { min: 1, max: hiddenSize });
  if (hiddenSize % (2 * numHeads) !== 0) {
    throw badValue(config, "n_heads", `a number that cuts d_model = ${hiddenSize} into heads of even width`);
  }
  const numKvHeads = optionalInteger(config, "n_kv_heads", { min: 1, max: numHeads }) ?? numHeads;
  if (numHeads % numKvHeads !== 0) throw badValue(config, "n_kv_heads", `a divisor of n_heads = ${numHeads}`);
  return { numHeads, numKvHeads };
}

function intermediateSize(config: ConfigFile, hiddenSize: number): number {
  const given = optionalInteger(config, "mlp_hidden_size", { min: 1, max: 1 << 22 });
  return given ?? integer(config, "mlp_ratio", { min: 1, max: 64 }) * hiddenSize;
}

/** Some configs leave rows of the embedding unused: embedding_size >= vocab_size then counts them all. */
function embeddingRows(config: ConfigFile): number {
  const vocab = integer(config, "vocab_size", IDS);
  return optionalInteger(config, "embedding_size", { min: vocab, max: IDS.max }) ?? vocab;
}

function parse(config: ConfigFile): MaskedConfig {
  checkFeatures(config);
  const hiddenSize = integer(config, "d_model", WIDTH);
  const vocabSize = embeddingRows(config);
  const id = { min: 0, max: vocabSize - 1 };
  const eosTokenId = optionalInteger(config, "eos_token_id", id);
  const padTokenId = optionalInteger(config, "pad_token_id", id);
  return {
    layout: "llada",
    vocabSize,
    hiddenSize,
    numLayers: integer(config, "n_layers", { min: 1, max: 1024 }),
    ...headCounts(config, hiddenSize),
    intermediateSize: intermediateSize(config, hiddenSize),
    maxPositions: integer(config, "max_sequence_length", { min: 1, max: 1 << 24 }),
    ropeTheta: number(config, "rope_theta", { min: 1, max: 1e12 }),
    rmsNormEps: number(config, "rms_norm_eps", { min: 1e-12, max: 1e-1 }),
    maskTokenId: integer(config, "mask_token_id", id),
    ...(eosTokenId !== undefined && { eosTokenId }),
    ...(padTokenId !== undefined && { padTokenId }),
    tiedEmbeddings: boolean(config, "weight_tying"),
  };
}

function tensors({ vocabSize: V, hiddenSize: C, intermediateSize: F, ...config }: MaskedConfig): TensorSpec[] {
  const keys = (C / config.numHeads) * config.numKvHeads;
  const table: [name: string, canonical: string, shape: number[]][] = [["wte.weight", "embed.weight", [V, C]]];
  for (let i = 0; i < config.numLayers; i++) {
    const add = (name: string, canonical: string, ...shape: number[]) => {
      table.push([`blocks.${i}.${name}.weight`, `layers.${i}.${canonical}.weight`, shape]);
    };
    add("attn_norm", "attention_norm", C);
    add("q_proj", "q", C, C);
    add("k_proj", "k", keys, C);
    add("v_proj", "v", keys, C);
    add("attn_out", "o", C, C);
    add("ff_norm", "mlp_norm", C);
    add("ff_proj", "gate", F, C);
    add("up_proj", "up", F, C);
    add("ff_out", "down", C, F);
  }
  table.push(["ln_f.weight", "norm.weight", [C]]);
  if (!config.tiedEmbeddings) table.push(["ff_out.weight", "head.weight", [V, C]]);
  return table.map(([name, canonical, shape]) => ({ name, canonical, shape }));
}

function toJson(config: MaskedConfig): JsonObject {
  return {
    model_type: "llada",
    architectures: ["LLaDAModelLM"],
    vocab_size: config.vocabSize,
    embedding_size: config.vocabSize,
    d_model: config.hiddenSize,
    n_layers: config.numLayers,
    n_heads: config.numHeads,
    n_kv_heads: config.numKvHeads,
    mlp_hidden_size: config.intermediateSize,
    max_sequence_length: config.maxPositions,
    rope: true,
    rope_theta: config.ropeTheta,
    rms_norm_eps: config.rmsNormEps,
    mask_token_id: config.maskTokenId,
    eos_token_id: config.eosTokenId ?? null,
    pad_token_id: config.padTokenId ?? null,
    weight_tying: config.tiedEmbeddings,
    block_type: "llama",
    block_group_size: 1,
    activation_type: "silu",
    layer_norm_type: "rms",
    layer_norm_with_affine: true,
    bias_for_layer_norm: false,
    include_bias: false,
    include_qkv_bias: false,
    attention_layer_norm: false,
    alibi: false,
    input_emb_norm: false,
    scale_logits: false,
  };
}

export const llada: Layout<MaskedConfig> = {
  name: "llada",
  family: "masked",
  prefixes: ["model.transformer.", "transformer.", ""],
  anchor: "wte.weight",
  buffers: /(^|\.)rotary_emb\.inv_freq$/,
  sniff: (values) => values.model_type === "llada",
  parse,
  tensors,
  config: toJson,
};
