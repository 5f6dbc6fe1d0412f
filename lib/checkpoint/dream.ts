/** Dream's layout (HKUNLP/Dream): Qwen2's network without a causal mask, whose output at a position predicts the next one. */

import type { JsonObject } from "../json.js";
import { type BlockSizes, languageModelTensors, transformerConfig, transformerJson } from "./block.js";
import { badValue, type ConfigFile, integer, type MaskedConfig, optionalInteger, requires } from "./config.js";
import type { Layout, TensorSpec } from "./layout.js";

function parse(config: ConfigFile): MaskedConfig {
  requires(config, "hidden_act", "silu", true);
  requires(config, "use_sliding_window", false, true);
  if (config.values["rope_scaling"] != null)
    throw badValue(config, "rope_scaling", "nothing: this layout does not do it");
  const { sizes, id } = transformerConfig(config);
  const padTokenId = optionalInteger(config, "pad_token_id", id);
  return {
    ...{ layout: "dream", ...sizes, qkvBias: true, shifted: true },
    maskTokenId: integer(config, "mask_token_id", id),
    ...(padTokenId !== undefined && { padTokenId }),
  };
}

function biases(at: string, { C, keys }: Required<BlockSizes>): TensorSpec[] {
  const bias = (role: string, size: number): TensorSpec => {
    return { name: `${at}self_attn.${role}_proj.bias`, canonical: `${at}${role}.bias`, shape: [size] };
  };
  return [bias("q", C), bias("k", keys), bias("v", keys)];
}

function tensors(config: MaskedConfig): TensorSpec[] {
  return languageModelTensors({ config, prefix: "model.", extra: biases });
}

function toJson(config: MaskedConfig): JsonObject {
  return {
    ...{ model_type: "Dream", architectures: ["DreamModel"], ...transformerJson(config) },
    ...{ hidden_act: "silu", use_sliding_window: false, rope_scaling: null },
    mask_token_id: config.maskTokenId,
    eos_token_id: config.eosTokenId ?? null,
    pad_token_id: config.padTokenId ?? null,
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
