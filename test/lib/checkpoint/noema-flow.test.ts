import test from "ava";
import { noemaFlow } from "../../../lib/checkpoint/noema-flow.js";
import { findLayout } from "../../../lib/checkpoint/registry.js";
import type { JsonObject } from "../../../lib/json.js";

/** The example of the layout's description. */
const values = {
  model_type: "noema-flow",
  ...{ vocab_size: 27, latent_size: 5, patch_size: 1, hidden_size: 128, num_attention_heads: 4 },
  ...{ intermediate_size: 344, rope_theta: 10000, rms_norm_eps: 1e-5, max_position_embeddings: 256 },
  ...{ channel_mix: false, prefix_conditioning: true },
  flows: [
    { kind: "mixture-rosenblatt", direction: "forward", num_hidden_layers: 2 },
    {
      ...{ kind: "mixture-cdf", direction: "reverse", num_hidden_layers: 2 },
      ...{ num_components: 8, maf_hidden_size: 32, maf_features: 4 },
    },
    { kind: "affine", direction: "forward", num_hidden_layers: 4 },
  ],
};

const parse = (changes: JsonObject = {}) => noemaFlow.parse({ path: "config.json", values: { ...values, ...changes } });

test("the described config, and back", (t) => {
  t.is(findLayout({ path: "c", values }).name, "noema-flow");
  const config = parse();
  t.like(config, { vocabSize: 27, latentSize: 5, hiddenSize: 128, prefixConditioning: true });
  t.deepEqual(config.flows[1], {
    ...{ kind: "mixture-cdf", direction: "reverse", numLayers: 2 },
    ...{ numComponents: 8, mafHiddenSize: 32, mafFeatures: 4 },
  });
  t.deepEqual(noemaFlow.config(config), values);
});

test("a readout, and how well it reads", (t) => {
  const readout = { readout_hidden_size: 8, readout_accuracy: 0.824 };
  const changed = { ...values, flows: values.flows.map((flow) => ({ ...flow, ...readout })) };
  const config = noemaFlow.parse({ path: "config.json", values: changed });
  t.like(config.flows[2], { readoutHiddenSize: 8, readoutAccuracy: 0.824 });
  t.deepEqual(noemaFlow.config(config), changed);
});

test("tensors: names and shapes of every kind of flow", (t) => {
  const shapes = new Map(noemaFlow.tensors(parse({ patch_size: 2 })).map(({ name, shape }) => [name, shape]));
  const expected: [string, number[]][] = [
    ["codebook.mean", [27, 5]],
    ["codebook.log_sigma", [27]],
    ["flows.0.start", [10]],
    ["flows.0.context.weight", [128, 10]],
    ["flows.0.head.weight", [54, 128]],
    ["flows.1.maf.embed.weight", [9, 4, 3]],
    ["flows.1.maf.features.weight", [10, 32, 9, 4]],
    ["flows.1.maf.out.bias", [10, 24]],
    ["flows.2.head.weight", [20, 128]],
    ["flows.2.layers.3.self_attn.o_proj.weight", [128, 128]],
    ["flows.2.layers.3.post_attention_layernorm.weight", [128]],
  ];
  for (const [name, shape] of expected) t.deepEqual(shapes.get(name), shape, name);
  t.false(shapes.has("flows.0.components.mean"));
  const own = noemaFlow.tensors(
    parse({ flows: [{ ...values.flows[0], num_components: 6 }], prefix_conditioning: false }),
  );
  t.deepEqual(own.find(({ name }) => name === "flows.0.components.mean")?.shape, [6, 5]);
  t.deepEqual(own.find(({ name }) => name === "flows.0.head.weight")?.shape, [6, 128]);
  t.false(own.some(({ name }) => name.endsWith("context.weight")));
});

test("what is wrong is named", (t) => {
  const refused = (changes: JsonObject, message: RegExp) =>
    t.throws(() => parse(changes), { code: "ERR_BAD_CHECKPOINT", message });
  const [first, second] = values.flows;
  refused({ latent_size: 0 }, /"latent_size": found 0/);
  refused({ patch_size: 1000 }, /"patch_size"/);
  refused({ num_attention_heads: 3 }, /heads of even width/);
  refused({ channel_mix: 1 }, /"channel_mix": found 1, expected true or false/);
  refused({ flows: [] }, /"flows": found .*expected an array of 1 to 64 objects/);
  refused({ flows: [first, { ...second, kind: "logistic" }] }, /flows\[1\]: "kind": found "logistic"/);
  refused({ flows: [{ ...first, direction: "left" }] }, /flows\[0\]: "direction"/);
  refused({ flows: [{ kind: "mixture-cdf", direction: "forward", num_hidden_layers: 1 }] }, /"num_components"/);
  refused({ latent_size: 1, flows: [second] }, /at least 2 channels/);
  refused({ flows: [{ ...first, num_hidden_layers: 0 }] }, /"num_hidden_layers"/);
  refused({ flows: [{ ...first, readout_hidden_size: 8, readout_accuracy: 82 }] }, /"readout_accuracy": found 82/);
  refused({ flows: [{ ...first, readout_accuracy: 0.8 }] }, /expected nothing without readout_hidden_size/);
});
