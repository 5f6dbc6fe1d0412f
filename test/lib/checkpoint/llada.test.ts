import test from "ava";
import fc from "fast-check";
import type { MaskedConfig } from "../../../lib/checkpoint/config.js";
import { llada } from "../../../lib/checkpoint/llada.js";
import { findLayout, layouts } from "../../../lib/checkpoint/registry.js";
import { tinyConfig } from "./fixtures.js";

/** As the 8B model publishes it (the keys that matter, and some that do not). */
const published = {
  model_type: "llada",
  activation_type: "silu",
  alibi: false,
  attention_dropout: 0,
  attention_layer_norm: false,
  bias_for_layer_norm: false,
  block_group_size: 1,
  block_type: "llama",
  d_model: 4096,
  embedding_size: 126464,
  eos_token_id: 126081,
  include_bias: false,
  include_qkv_bias: false,
  input_emb_norm: false,
  layer_norm_type: "rms",
  layer_norm_with_affine: true,
  mask_token_id: 126336,
  max_sequence_length: 4096,
  mlp_hidden_size: 12288,
  mlp_ratio: 4,
  multi_query_attention: null,
  n_heads: 32,
  n_kv_heads: 32,
  n_layers: 32,
  pad_token_id: 126081,
  rms_norm_eps: 1e-5,
  rope: true,
  rope_theta: 500000,
  scale_logits: false,
  vocab_size: 126464,
  weight_tying: false,
};

const parse = (changes: Record<string, unknown> = {}) =>
  llada.parse({ path: "config.json", values: { ...published, ...changes } });

test("the published config", (t) => {
  t.true(llada.sniff(published));
  t.deepEqual(parse(), {
    layout: "llada",
    vocabSize: 126464,
    hiddenSize: 4096,
    numLayers: 32,
    numHeads: 32,
    numKvHeads: 32,
    intermediateSize: 12288,
    maxPositions: 4096,
    ropeTheta: 500000,
    rmsNormEps: 1e-5,
    maskTokenId: 126336,
    eosTokenId: 126081,
    padTokenId: 126081,
    tiedEmbeddings: false,
  });
  const specs = llada.tensors(parse());
  t.is(specs.length, 32 * 9 + 3);
  t.is(
    specs.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
    8_015_581_184,
  );
});

test("null means the default", (t) => {
  t.is(parse({ n_kv_heads: null }).numKvHeads, 32);
  t.is(parse({ mlp_hidden_size: null }).intermediateSize, 4 * 4096);
  t.is(parse({ embedding_size: null }).vocabSize, 126464);
  t.is(parse({ embedding_size: 126500 }).vocabSize, 126500);
  t.false("eosTokenId" in parse({ eos_token_id: null }));
});

test("what the layout does not do, and absurd values, are refused by key", (t) => {
  const cases: [string, unknown][] = [
    ["block_type", "sequential"],
    ["block_type", undefined],
    ["activation_type", "swiglu"],
    ["layer_norm_type", "default"],
    ["include_bias", true],
    ["include_bias", undefined],
    ["include_qkv_bias", true],
    ["bias_for_layer_norm", true],
    ["layer_norm_with_affine", false],
    ["attention_layer_norm", true],
    ["input_emb_norm", true],
    ["scale_logits", true],
    ["multi_query_attention", true],
    ["block_group_size", 2],
    ["rope", false],
    ["alibi", true],
    ["clip_qkv", 8],
    ["rope_scaling", { factor: 2 }],
    ["d_model", 0],
    ["d_model", 2 ** 21],
    ["d_model", "4096"],
    ["n_heads", 0],
    ["n_heads", 3],
    ["n_heads", 4096],
    ["n_kv_heads", 0],
    ["n_kv_heads", 5],
    ["n_kv_heads", 64],
    ["n_layers", 0],
    ["n_layers", 1025],
    ["n_layers", 1e308],
    ["mlp_hidden_size", -1],
    ["vocab_size", 2 ** 25],
    ["embedding_size", 126463],
    ["max_sequence_length", 0],
    ["rope_theta", 0],
    ["rope_theta", "1e4"],
    ["rms_norm_eps", 0],
    ["rms_norm_eps", -1e-5],
    ["mask_token_id", 126464],
    ["mask_token_id", null],
    ["mask_token_id", -1],
    ["eos_token_id", 126464],
    ["pad_token_id", [1]],
    ["weight_tying", undefined],
  ];
  for (const [key, value] of cases) {
    const message = new RegExp(`^config\\.json: "${key}": found .*, expected `);
    t.throws(
      () => parse({ [key]: value }),
      { code: "ERR_BAD_CHECKPOINT", message },
      `${key} = ${JSON.stringify(value)}`,
    );
  }
});

test("config and parse are inverse", (t) => {
  const configs = fc.record({
    heads: fc.integer({ min: 1, max: 6 }),
    group: fc.integer({ min: 1, max: 3 }),
    halfWidth: fc.integer({ min: 1, max: 40 }),
    tied: fc.boolean(),
    eos: fc.option(fc.nat(99), { nil: undefined }),
  });
  fc.assert(
    fc.property(configs, ({ heads, group, halfWidth, tied, eos }) => {
      const config: MaskedConfig = {
        ...tinyConfig,
        vocabSize: 100,
        numHeads: heads * group,
        numKvHeads: heads,
        hiddenSize: heads * group * halfWidth * 2,
        tiedEmbeddings: tied,
      };
      delete config.eosTokenId;
      if (eos !== undefined) config.eosTokenId = eos;
      t.deepEqual(llada.parse({ path: "x", values: JSON.parse(JSON.stringify(llada.config(config))) }), config);
    }),
  );
});

test("names within the files and within noema are unique, and the head goes when tied", (t) => {
  const specs = llada.tensors(tinyConfig);
  t.is(new Set(specs.map(({ name }) => name)).size, specs.length);
  t.is(new Set(specs.map(({ canonical }) => canonical)).size, specs.length);
  t.true(specs.some(({ name }) => name === llada.anchor));
  const tied = llada.tensors({ ...tinyConfig, tiedEmbeddings: true });
  t.deepEqual(
    specs.map(({ canonical }) => canonical).filter((name) => !tied.some((spec) => spec.canonical === name)),
    ["head.weight"],
  );
  t.deepEqual(specs.find(({ canonical }) => canonical === "layers.1.k.weight")?.shape, [4, 8]);
});

test("the registry names what it knows", (t) => {
  t.is(new Set(layouts.map(({ name }) => name)).size, layouts.length);
  t.is(findLayout({ path: "c", values: published }), llada);
  for (const values of [{ model_type: "qwen2" }, {}]) {
    t.throws(() => findLayout({ path: "c", values }), {
      code: "ERR_UNSUPPORTED",
      message: /^c: no layout reads .*known: llada/,
    });
  }
});
