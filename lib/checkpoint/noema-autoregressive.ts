/** noema's own layout for autoregressive transformers: Llama's names. */

import type { JsonObject } from "../json.js";
import { languageModelTensors, transformerConfig, transformerJson } from "./block.js";
import { type AutoregressiveConfig, type ConfigFile, integer } from "./config.js";
import type { Layout, TensorSpec } from "./layout.js";

function parse(config: ConfigFile): AutoregressiveConfig {
  const { sizes, id } = transformerConfig(config);
  return { layout: "noema-autoregressive", ...sizes, bosTokenId: integer(config, "bos_token_id", id) };
}

function tensors(config: AutoregressiveConfig): TensorSpec[] {
  return languageModelTensors({ config });
}

function toJson(config: AutoregressiveConfig): JsonObject {
  return {
    model_type: "noema-autoregressive",
    ...transformerJson(config),
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
