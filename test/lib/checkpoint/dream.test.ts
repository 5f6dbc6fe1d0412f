import test from "ava";
import { dream } from "../../../lib/checkpoint/dream.js";
import { findLayout } from "../../../lib/checkpoint/registry.js";
import type { JsonObject } from "../../../lib/json.js";

/** As the 7B model publishes it (the keys that matter, and some that do not). */
const published = {
  ...{ model_type: "Dream", architectures: ["DreamModel"], torch_dtype: "bfloat16", use_cache: true },
  ...{ vocab_size: 152064, hidden_size: 3584, num_hidden_layers: 28, num_attention_heads: 28, num_key_value_heads: 4 },
  ...{ intermediate_size: 18944, max_position_embeddings: 131072, rope_theta: 1000000, rope_scaling: null },
  ...{ rms_norm_eps: 1e-6, hidden_act: "silu", use_sliding_window: false, sliding_window: null, max_window_layers: 28 },
  ...{ bos_token_id: 151643, eos_token_id: 151643, pad_token_id: 151643, mask_token_id: 151666 },
  tie_word_embeddings: false,
};

const parse = (changes: JsonObject = {}) => dream.parse({ path: "config.json", values: { ...published, ...changes } });

test("the published config", (t) => {
  t.is(findLayout({ path: "c", values: published }), dream);
  t.deepEqual(parse(), {
    ...{ layout: "dream", vocabSize: 152064, hiddenSize: 3584, numLayers: 28, numHeads: 28, numKvHeads: 4 },
    ...{ intermediateSize: 18944, maxPositions: 131072, ropeTheta: 1000000, rmsNormEps: 1e-6 },
    ...{ maskTokenId: 151666, eosTokenId: 151643, padTokenId: 151643, tiedEmbeddings: false },
    ...{ qkvBias: true, shifted: true },
  });
  const parameters = dream.tensors(parse()).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  t.is(parameters, 7_615_616_512);
});

test("config and parse are inverse", (t) => {
  for (const changes of [{}, { tie_word_embeddings: true }, { eos_token_id: null }, { num_key_value_heads: null }]) {
    const config = parse(changes);
    t.deepEqual(dream.parse({ path: "x", values: JSON.parse(JSON.stringify(dream.config(config))) }), config);
  }
  t.is(parse({ num_key_value_heads: null }).numKvHeads, 28);
});

test("tensors: Qwen's names, biases of queries, keys and values, and the head only where it is not the embedding", (t) => {
  const sizes = { hidden_size: 64, num_attention_heads: 4, num_key_value_heads: 2, num_hidden_layers: 3 };
  const small = { ...sizes, intermediate_size: 160, vocab_size: 96, mask_token_id: 91, eos_token_id: 88 };
  const specs = dream.tensors(parse({ ...small, pad_token_id: 88 }));
  t.is(specs.length, 3 + 3 * 12);
  t.is(new Set(specs.map(({ name }) => name)).size, specs.length);
  t.is(new Set(specs.map(({ canonical }) => canonical)).size, specs.length);
  t.true(specs.some(({ name }) => name === dream.anchor));
  const shapes = new Map(specs.map(({ name, shape }) => [name, shape]));
  const expected: [string, number[]][] = [
    ["model.embed_tokens.weight", [96, 64]],
    ["model.layers.2.self_attn.q_proj.bias", [64]],
    ["model.layers.2.self_attn.k_proj.bias", [32]],
    ["model.layers.0.self_attn.v_proj.weight", [32, 64]],
    ["model.layers.0.mlp.down_proj.weight", [64, 160]],
    ["model.norm.weight", [64]],
    ["lm_head.weight", [96, 64]],
  ];
  for (const [name, shape] of expected) t.deepEqual(shapes.get(name), shape, name);
  const tied = dream.tensors(parse({ ...small, pad_token_id: 88, tie_word_embeddings: true }));
  t.false(tied.some(({ name }) => name === "lm_head.weight"));
});

test("what the layout does not do, and absurd values, are refused by key", (t) => {
  const cases: [string, unknown][] = [
    ["hidden_act", "gelu"],
    ["use_sliding_window", true],
    ["rope_scaling", { type: "yarn", factor: 4 }],
    ["hidden_size", 0],
    ["num_attention_heads", 5],
    ["num_key_value_heads", 3],
    ["num_hidden_layers", 1025],
    ["vocab_size", 2 ** 25],
    ["rope_theta", "1e6"],
    ["rms_norm_eps", 0],
    ["mask_token_id", 152064],
    ["mask_token_id", null],
    ["eos_token_id", -1],
    ["tie_word_embeddings", null],
  ];
  for (const [key, value] of cases) {
    const message = new RegExp(`^config\\.json: "${key}": found .*, expected `);
    t.throws(() => parse({ [key]: value }), { code: "ERR_BAD_CHECKPOINT", message }, `${key} = ${value}`);
  }
});
