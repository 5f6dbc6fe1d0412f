import test from "ava";
import { mdlm } from "../../../lib/checkpoint/mdlm.js";
import { findLayout } from "../../../lib/checkpoint/registry.js";
import type { JsonObject } from "../../../lib/json.js";

/** As the model of 1024 tokens of OpenWebText publishes it. */
const published = {
  ...{ model_type: "mdlm", architectures: ["MDLM"], torch_dtype: "float32", return_dict: false, dropout: 0.1 },
  ...{ vocab_size: 50258, hidden_dim: 768, n_blocks: 12, n_heads: 12, cond_dim: 128, model_length: 1024 },
  time_conditioning: false,
};

const parse = (changes: JsonObject = {}) => mdlm.parse({ path: "config.json", values: { ...published, ...changes } });

test("the published config: MASK is the last row of the vocabulary", (t) => {
  t.is(findLayout({ path: "c", values: published }), mdlm);
  t.deepEqual(parse(), {
    ...{ layout: "mdlm", vocabSize: 50258, hiddenSize: 768, numLayers: 12, numHeads: 12, numKvHeads: 12 },
    ...{ intermediateSize: 3072, maxPositions: 1024, ropeTheta: 10000, rmsNormEps: 1e-5 },
    ...{ maskTokenId: 50257, tiedEmbeddings: false, conditionSize: 128 },
  });
  t.is(parse({ eos_token_id: 50256 }).eosTokenId, 50256);
  const parameters = mdlm.tensors(parse()).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  t.is(parameters, 169_627_218);
});

test("config and parse are inverse", (t) => {
  for (const changes of [{}, { eos_token_id: 7 }, { cond_dim: 1 }]) {
    const config = parse(changes);
    t.deepEqual(mdlm.parse({ path: "x", values: JSON.parse(JSON.stringify(mdlm.config(config))) }), config);
  }
});

test("tensors: published names, each once", (t) => {
  const specs = mdlm.tensors(parse());
  t.is(specs.length, 1 + 4 + 12 * 10 + 5);
  t.is(new Set(specs.map(({ name }) => name)).size, specs.length);
  t.is(new Set(specs.map(({ canonical }) => canonical)).size, specs.length);
  t.true(specs.some(({ name }) => name === mdlm.anchor));
  const shapes = new Map(specs.map(({ name, shape }) => [name, shape]));
  const expected: [string, number[]][] = [
    ["vocab_embed.embedding", [50258, 768]],
    ["sigma_map.mlp.0.weight", [128, 256]],
    ["blocks.11.attn_qkv.weight", [2304, 768]],
    ["blocks.0.mlp.2.weight", [768, 3072]],
    ["blocks.0.adaLN_modulation.weight", [4608, 128]],
    ["output_layer.linear.bias", [50258]],
    ["output_layer.adaLN_modulation.bias", [1536]],
  ];
  for (const [name, shape] of expected) t.deepEqual(shapes.get(name), shape, name);
  t.true(mdlm.buffers.test("backbone.rotary_emb.inv_freq"));
});

test("what the layout does not do, and absurd values, are refused by key", (t) => {
  const cases: [string, unknown][] = [
    ["time_conditioning", true],
    ["time_conditioning", undefined],
    ["hidden_dim", 0],
    ["n_heads", 5],
    ["n_blocks", 0],
    ["cond_dim", 0],
    ["cond_dim", 2 ** 15],
    ["model_length", "1024"],
    ["vocab_size", 1],
    ["eos_token_id", 50258],
  ];
  for (const [key, value] of cases) {
    const message = new RegExp(`^config\\.json: "${key}": found .*, expected `);
    t.throws(() => parse({ [key]: value }), { code: "ERR_BAD_CHECKPOINT", message }, `${key} = ${value}`);
  }
});
