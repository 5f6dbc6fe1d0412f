/** MDLM's layout (kuleshov-group/mdlm): a DiT without time conditioning. */

import type { JsonObject } from "../json.js";
import { badValue, type ConfigFile, integer, type MaskedConfig, optionalInteger, requires } from "./config.js";
import type { Layout, TensorSpec } from "./layout.js";

/** Of the sinusoids that tell the time. */
const TIME_SIZE = 256;
/** The published code's, which no config says. */
const FIXED = { ropeTheta: 10_000, rmsNormEps: 1e-5, mlpRatio: 4 } as const;

function headCount(config: ConfigFile, hiddenSize: number): number {
  const numHeads = integer(config, "n_heads", { min: 1, max: hiddenSize });
  if (hiddenSize % (2 * numHeads) === 0) return numHeads;
  throw badValue(config, "n_heads", `a number that cuts hidden_dim = ${hiddenSize} into heads of even width`);
}

function parse(config: ConfigFile): MaskedConfig {
  requires(config, "time_conditioning", false);
  const vocabSize = integer(config, "vocab_size", { min: 2, max: 1 << 24 });
  const hiddenSize = integer(config, "hidden_dim", { min: 2, max: 1 << 20 });
  const numHeads = headCount(config, hiddenSize);
  const eosTokenId = optionalInteger(config, "eos_token_id", { min: 0, max: vocabSize - 1 });
  return {
    layout: "mdlm",
    ...{ vocabSize, hiddenSize, numHeads },
    numKvHeads: numHeads,
    numLayers: integer(config, "n_blocks", { min: 1, max: 1024 }),
    intermediateSize: FIXED.mlpRatio * hiddenSize,
    maxPositions: integer(config, "model_length", { min: 1, max: 1 << 24 }),
    ropeTheta: FIXED.ropeTheta,
    rmsNormEps: FIXED.rmsNormEps,
    // The tokenizer's ids come first; one more row is MASK.
    maskTokenId: vocabSize - 1,
    ...(eosTokenId !== undefined && { eosTokenId }),
    tiedEmbeddings: false,
    conditionSize: integer(config, "cond_dim", { min: 1, max: 1 << 14 }),
  };
}

type Row = [name: string, canonical: string, shape: number[]];

/** A linear layer's weight and bias. */
function linear(name: string, canonical: string, [rows, columns]: [number, number]): Row[] {
  return [
    [`${name}.weight`, `${canonical}.weight`, [rows, columns]],
    [`${name}.bias`, `${canonical}.bias`, [rows]],
  ];
}

function tensors({ vocabSize: V, hiddenSize: C, intermediateSize: F, ...config }: MaskedConfig): TensorSpec[] {
  const K = config.conditionSize ?? 0;
  const table: Row[] = [
    ["vocab_embed.embedding", "embed.weight", [V, C]],
    ...linear("sigma_map.mlp.0", "condition.input", [K, TIME_SIZE]),
    ...linear("sigma_map.mlp.2", "condition.output", [K, K]),
  ];
  for (let i = 0; i < config.numLayers; i++) {
    const [from, to] = [`blocks.${i}`, `layers.${i}`];
    table.push(
      [`${from}.norm1.weight`, `${to}.attention_norm.weight`, [C]],
      [`${from}.attn_qkv.weight`, `${to}.qkv.weight`, [3 * C, C]],
      [`${from}.attn_out.weight`, `${to}.o.weight`, [C, C]],
      [`${from}.norm2.weight`, `${to}.mlp_norm.weight`, [C]],
      ...linear(`${from}.mlp.0`, `${to}.up`, [F, C]),
      ...linear(`${from}.mlp.2`, `${to}.down`, [C, F]),
      ...linear(`${from}.adaLN_modulation`, `${to}.modulation`, [6 * C, K]),
    );
  }
  table.push(
    ["output_layer.norm_final.weight", "norm.weight", [C]],
    ...linear("output_layer.linear", "head", [V, C]),
    ...linear("output_layer.adaLN_modulation", "modulation", [2 * C, K]),
  );
  return table.map(([name, canonical, shape]) => ({ name, canonical, shape }));
}

function toJson(config: MaskedConfig): JsonObject {
  return {
    model_type: "mdlm",
    architectures: ["MDLM"],
    vocab_size: config.vocabSize,
    hidden_dim: config.hiddenSize,
    n_blocks: config.numLayers,
    n_heads: config.numHeads,
    cond_dim: config.conditionSize,
    model_length: config.maxPositions,
    time_conditioning: false,
    dropout: 0,
    ...(config.eosTokenId !== undefined && { eos_token_id: config.eosTokenId }),
  };
}

export const mdlm: Layout<MaskedConfig> = {
  name: "mdlm",
  family: "masked",
  prefixes: ["backbone.", ""],
  anchor: "vocab_embed.embedding",
  buffers: /(^|\.)rotary_emb\.inv_freq$/,
  sniff: (values) => values.model_type === "mdlm",
  parse,
  tensors,
  config: toJson,
};
