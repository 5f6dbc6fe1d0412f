/** Dream's and MDLM's layouts from end to end on the real addon: written, read, generated with, scored, trained further. */

import { join } from "node:path";
import test from "ava";
import type { MaskedConfig } from "../../lib/checkpoint/config.js";
import { openCheckpoint, writeCheckpoint } from "../../lib/checkpoint/folder.js";
import { layoutNamed } from "../../lib/checkpoint/registry.js";
import { createEngine, evaluate } from "../../lib/index.js";
import { smallConfig, smallWeights } from "../support/small-model.js";
import { scratch } from "./training/scratch.js";
import { fixture, outcomeOf, trained } from "./training/tiny-run.js";

/** The tiny run's vocabulary: 3 special tokens, 96 characters; MDLM's MASK is one row more. */
const TOKENS = 99;
const shape = { hiddenSize: 32, numHeads: 2, numLayers: 2, maxPositions: 64, eosTokenId: 0 };
const configs: Record<"dream" | "mdlm", MaskedConfig> = {
  dream: {
    ...{ ...smallConfig, ...shape, layout: "dream", numKvHeads: 1, intermediateSize: 48, vocabSize: TOKENS },
    ...{ maskTokenId: 1, tiedEmbeddings: false, qkvBias: true, shifted: true },
  },
  mdlm: layoutNamed("mdlm").parse({
    path: "small",
    values: {
      ...{ model_type: "mdlm", vocab_size: TOKENS + 1, hidden_dim: 32, n_blocks: 2, n_heads: 2, cond_dim: 12 },
      ...{ model_length: 64, time_conditioning: false, eos_token_id: 0 },
    },
  }),
};

/** A checkpoint of random weights with the tiny run's tokenizer. */
async function written(config: MaskedConfig, tokenizer: string): Promise<string> {
  const folder = join(await scratch(), "model");
  const specs = layoutNamed(config.layout).tensors(config);
  const tensors = new Map(specs.map(({ canonical, shape }, row) => [canonical, smallWeights(shape, row)]));
  await writeCheckpoint(folder, { config, tensors, tokenizer });
  return folder;
}

for (const [name, config] of Object.entries(configs)) {
  test(`${name}: generates, fills holes and scores; alone as in a batch, on any number of threads`, async (t) => {
    const { options } = await fixture();
    const folder = await written(config, options.tokenizer!);
    await using one = await createEngine({ threads: 1 });
    await using two = await createEngine({ threads: 2 });
    await using model = await one.load(folder, { family: "masked" });
    await using other = await two.load(folder, { family: "masked" });
    t.is(model.info.maskTokenId, config.maskTokenId);
    const prompts = ["abc", "xyzzy", ""];
    const timed = { rule: "entropy", schedule: "time" as const, steps: 5 };
    for (const decoding of ["conv", "low-confidence", timed, "ancestral"]) {
      const request = { maxTokens: 12, decoding };
      const batch = await other.generateBatch({ prompts, seed: 7, ...request });
      for (const [i, prompt] of prompts.entries()) {
        const alone = await model.generate({ prompt, seed: 7 + i, ...request });
        t.deepEqual([...alone.ids], [...batch[i]!.ids], `${JSON.stringify(decoding)} ${prompt}`);
        t.false([...alone.ids].includes(config.maskTokenId));
      }
    }
    const score = await model.score("abcabc");
    t.true(score.nats > 0 && Number.isFinite(score.standardError));
    t.is(score.nats, (await other.score("abcabc")).nats);
  });

  test(`${name}: fine-tuning learns, resumes to the same bits, and keeps the layout`, async (t) => {
    const learn = { steps: 40, batch: 8, microBatch: 4, length: 24, warmup: 4, rate: 0.01, saveEvery: 20 };
    const rest = { ...learn, evaluateEvery: 40, evaluateDraws: 4 };
    const runs = await Promise.all([fixture(rest), fixture(rest)]);
    const folder = await written(config, runs[0]!.options.tokenizer!);
    const [whole, cut] = runs.map(({ options: { tokenizer: _, shape: __, ...options } }) => ({
      ...options,
      init: folder,
    }));
    const events = await trained(whole!);
    const bounds = events.flatMap((event) => (event.type === "held-out" ? [event.bound] : []));
    t.true(bounds.at(-1)! < 0.7 * bounds[0]!, bounds.join(" "));
    await trained({ ...cut!, stopAt: 17 }, { threads: 2 });
    await trained(cut!, { threads: 2 });
    t.deepEqual(await outcomeOf(cut!.run), await outcomeOf(whole!.run));
    const { layout, config: kept } = await openCheckpoint(whole!.run);
    t.is(layout.name, config.layout);
    t.deepEqual(kept, config);
    await using engine = await createEngine({ threads: 1 });
    await using model = await engine.load(whole!.run, { family: "masked" });
    const evaluation = await evaluate(model, runs[0]!.options.heldOut![0]!);
    t.true(evaluation.perplexity < Math.exp(0.75 * bounds[0]!), `${evaluation.perplexity}`);
  });
}
