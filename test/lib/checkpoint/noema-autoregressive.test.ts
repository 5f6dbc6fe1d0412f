import test from "ava";
import { noemaAutoregressive } from "../../../lib/checkpoint/noema-autoregressive.js";
import { findLayout } from "../../../lib/checkpoint/registry.js";
import type { JsonObject } from "../../../lib/json.js";

const values = {
  model_type: "noema-autoregressive",
  ...{ vocab_size: 28, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 },
  ...{ intermediate_size: 96, max_position_embeddings: 256, rope_theta: 10000, rms_norm_eps: 1e-5 },
  ...{ tie_word_embeddings: true, bos_token_id: 3, eos_token_id: 0 },
};

const parse = (changes: JsonObject = {}) =>
  noemaAutoregressive.parse({ path: "config.json", values: { ...values, ...changes } });

test("a config, and back", (t) => {
  t.is(findLayout({ path: "c", values }).name, "noema-autoregressive");
  const config = parse();
  t.like(config, { vocabSize: 28, hiddenSize: 64, numKvHeads: 2, bosTokenId: 3, eosTokenId: 0, tiedEmbeddings: true });
  t.deepEqual(noemaAutoregressive.config(config), values);
  t.is(parse({ num_key_value_heads: null }).numKvHeads, 4);
  t.is(parse({ eos_token_id: null }).eosTokenId, undefined);
});

test("tensors: Llama's names, and the head only where it is not the embedding", (t) => {
  const shapes = (changes: JsonObject) =>
    new Map(noemaAutoregressive.tensors(parse(changes)).map(({ name, shape }) => [name, shape]));
  const tied = shapes({});
  t.is(tied.size, 2 + 2 * 9);
  const expected: [string, number[]][] = [
    ["embed_tokens.weight", [28, 64]],
    ["layers.1.input_layernorm.weight", [64]],
    ["layers.1.self_attn.q_proj.weight", [64, 64]],
    ["layers.1.self_attn.v_proj.weight", [32, 64]],
    ["layers.1.mlp.down_proj.weight", [64, 96]],
    ["norm.weight", [64]],
  ];
  for (const [name, shape] of expected) t.deepEqual(tied.get(name), shape, name);
  t.deepEqual(shapes({ tie_word_embeddings: false }).get("lm_head.weight"), [28, 64]);
});

test("what is wrong is named", (t) => {
  const refused = (changes: JsonObject, message: RegExp) =>
    t.throws(() => parse(changes), { code: "ERR_BAD_CHECKPOINT", message });
  refused({ vocab_size: 1 }, /"vocab_size": found 1/);
  refused({ num_attention_heads: 5 }, /heads of even width/);
  refused({ num_key_value_heads: 3 }, /a divisor of num_attention_heads = 4/);
  refused({ tie_word_embeddings: "yes" }, /"tie_word_embeddings"/);
  refused({ bos_token_id: 28 }, /"bos_token_id": found 28, expected an integer 0 \.\. 27/);
  refused({ bos_token_id: null }, /"bos_token_id"/);
  refused({ num_hidden_layers: 0 }, /"num_hidden_layers"/);
});
