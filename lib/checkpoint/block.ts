/** The transformer block under Llama's names, which noema's own layouts and Dream's have: pre-norm, RoPE, SwiGLU. */

import { badValue, type ConfigFile, integer, optionalInteger } from "./config.js";
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
