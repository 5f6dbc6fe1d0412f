import test from "ava";
import { fastLoopRanges, noemaThought } from "../../../lib/checkpoint/noema-thought.js";
import { findLayout } from "../../../lib/checkpoint/registry.js";
import type { JsonObject } from "../../../lib/json.js";
import { type FitOptions, fitSettings } from "../../../lib/posterior/fit.js";

/** The example of the layout's description. */
const values = {
  model_type: "noema-thought",
  ...{ vocab_size: 4096, hidden_size: 512, num_hidden_layers: 3, num_attention_heads: 8 },
  ...{ intermediate_size: 1376, rope_theta: 10000, rms_norm_eps: 1e-5, max_position_embeddings: 1024 },
  ...{ attention_window: 256, num_latents: 24, tie_word_embeddings: true, bos_token_id: 0, eos_token_id: 1 },
  inference: {
    ...{ steps: 16, learning_rate: [0.3, 0.34], schedule: "linear" },
    ...{ log_variance_init: -5, noise: "resample" },
  },
};

const parse = (changes: JsonObject = {}) =>
  noemaThought.parse({ path: "config.json", values: { ...values, ...changes } });
const parseInference = (changes: JsonObject) => parse({ inference: { ...values.inference, ...changes } }).inference;

test("the described config, and back", (t) => {
  t.is(findLayout({ path: "c", values }).name, "noema-thought");
  const config = parse();
  t.like(config, { vocabSize: 4096, numLatents: 24, attentionWindow: 256, tiedEmbeddings: true, eosTokenId: 1 });
  t.deepEqual(config.inference, {
    ...{ steps: 16, learningRate: [0.3, 0.34], schedule: "linear" },
    ...{ logVarianceInit: -5, noise: "resample", constantLogVariance: false },
  });
  t.deepEqual(noemaThought.config(config), values);
  t.is(parse({ eos_token_id: null }).eosTokenId, undefined);
});

test("settings of the fast loop", (t) => {
  t.deepEqual(parseInference({ learning_rate: 0.2 }).learningRate, [0.2, 0.2]);
  t.deepEqual(parseInference({ learning_rate: [0.2], schedule: "constant" }).learningRate, [0.2, 0.2]);
  const frozen = parse({ inference: { ...values.inference, constant_log_variance: true, noise: "shared" } });
  t.like(frozen.inference, { constantLogVariance: true, noise: "shared" });
  t.deepEqual(parse(noemaThought.config(frozen)), frozen);
});

test("what a checkpoint may say of the fast loop is what a fit takes", (t) => {
  const { steps, rate, logVarianceInit } = fastLoopRanges;
  const settings: [key: string, option: keyof FitOptions, range: { min: number; max: number }, beyond: number][] = [
    ["steps", "steps", steps, 1],
    ["learning_rate", "rate", rate, 1e-6],
    ["log_variance_init", "logVarianceInit", logVarianceInit, 1e-6],
  ];
  for (const [key, option, { min, max }, beyond] of settings) {
    for (const value of [min, max]) {
      t.notThrows(() => fitSettings({}, { inference: parseInference({ [key]: value }) }), `${key} ${value}`);
      t.notThrows(() => fitSettings({ [option]: value }, parse()), `${option} ${value}`);
    }
    for (const value of [min - beyond, max + beyond]) {
      t.throws(() => parseInference({ [key]: value }), { code: "ERR_BAD_CHECKPOINT" }, `${key} ${value}`);
      t.throws(() => fitSettings({ [option]: value }, parse()), { code: "ERR_INVALID_ARGUMENT" }, `${option} ${value}`);
    }
  }
});

test("tensors: names, shapes and their number", (t) => {
  const list = noemaThought.tensors(parse());
  const shapes = new Map(list.map(({ name, shape }) => [name, shape]));
  const expected: [string, number[]][] = [
    ["embed_tokens.weight", [4096, 512]],
    ["layers.0.input_layernorm.weight", [512]],
    ["layers.1.self_attn.k_proj.weight", [512, 512]],
    ["layers.2.cross_attn_layernorm.weight", [512]],
    ["layers.0.cross_attn.o_proj.weight", [512, 512]],
    ["layers.2.cross_attn.latent_embedding.weight", [8, 512]],
    ["layers.1.mlp.down_proj.weight", [512, 1376]],
    ["norm.weight", [512]],
  ];
  for (const [name, shape] of expected) t.deepEqual(shapes.get(name), shape, name);
  t.false(shapes.has("lm_head.weight"));
  t.is(new Set(list.map(({ canonical }) => canonical)).size, list.length);
  // V C + L (8 C² + 3 C F + 3 C) + C + N C
  const [V, C, F, L, N] = [4096, 512, 1376, 3, 24];
  const parameters = list.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  t.is(parameters, V * C + L * (8 * C * C + 3 * C * F + 3 * C) + C + N * C);
  const untied = noemaThought.tensors(parse({ tie_word_embeddings: false }));
  t.deepEqual(untied.find(({ canonical }) => canonical === "head.weight")?.shape, [4096, 512]);
});

test("what is wrong is named", (t) => {
  const refused = (changes: JsonObject, message: RegExp) =>
    t.throws(() => parse(changes), { code: "ERR_BAD_CHECKPOINT", message });
  refused({ num_latents: 25 }, /"num_latents": found 25, expected a multiple of num_hidden_layers = 3/);
  refused({ num_latents: 2 }, /"num_latents": found 2/);
  refused({ num_latents: 195 }, /"num_latents": found 195, expected an integer 3 \.\. 192/);
  refused({ num_latents: undefined }, /"num_latents": found nothing/);
  refused({ attention_window: 0 }, /"attention_window"/);
  refused({ num_attention_heads: 3 }, /heads of even width/);
  refused({ tie_word_embeddings: "yes" }, /"tie_word_embeddings"/);
  refused({ bos_token_id: 4096 }, /"bos_token_id"/);
  refused({ inference: "fast" }, /"inference": found .*, expected an object/);
  const loop = (changes: JsonObject, message: RegExp) =>
    refused({ inference: { ...values.inference, ...changes } }, message);
  loop({ steps: -1 }, /inference: "steps": found -1/);
  loop({ learning_rate: [0.3, 0.34, 0.4] }, /"learning_rate"/);
  loop({ learning_rate: [-1, 0] }, /"learning_rate"/);
  loop({ schedule: "slow" }, /"schedule": found "slow", expected one of "linear", "cosine", "constant"/);
  loop({ noise: "none" }, /"noise"/);
  loop({ log_variance_init: "low" }, /"log_variance_init"/);
  loop({ constant_log_variance: 1 }, /"constant_log_variance"/);
});
