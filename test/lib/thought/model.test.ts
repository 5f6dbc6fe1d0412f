import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { createEngine, type Engine, evaluate, type ThoughtModel } from "../../../lib/index.js";
import { readMetrics } from "../../../lib/training/metrics.js";
import { klWeight, quietened } from "../../../lib/training/thought/objective.js";
import { noema } from "../../support/command.js";
import { scratch } from "../training/scratch.js";
import { fixture, trained } from "../training/tiny-run.js";
import { tinyThought } from "./tiny-thought.js";

let run: Promise<string> | undefined;

async function trainedRun(): Promise<string> {
  const { options } = await fixture(tinyThought);
  await trained(options);
  return options.run;
}

async function open(threads = 1): Promise<{ engine: Engine; model: ThoughtModel; folder: string }> {
  run ??= trainedRun();
  const folder = await run;
  const engine = await createEngine({ threads });
  return { engine, model: await engine.load(folder, { family: "thought" }), folder };
}

test("training: the bound falls, and what it is made of is told; a resumed run ends with the same bits", async (t) => {
  const { engine, folder } = await open();
  const heldOut = (await readMetrics(join(folder, "metrics.jsonl"))).filter((metric) => metric.type === "held-out");
  t.true(heldOut.at(-1)!.bound < heldOut[0]!.bound);
  const { crossEntropy, kl, importanceWeighted } = heldOut.at(-1)!.thought!;
  t.true(Math.abs(crossEntropy + kl - heldOut.at(-1)!.bound) < 1e-4);
  t.true(importanceWeighted <= heldOut.at(-1)!.bound + 1e-6 && kl > 0);
  const { options } = await fixture(tinyThought);
  await trained({ ...options, stopAt: 20 });
  await trained(options);
  const [whole, resumed] = await Promise.all(
    [folder, options.run].map((path) => readFile(join(path, "model.safetensors"))),
  );
  t.deepEqual(resumed, whole);
  engine.dispose();
});

test("the released code's manner is a preset, and bad shapes are refused", async (t) => {
  const { options } = await fixture({ ...tinyThought, steps: 2, evaluateEvery: 0 });
  await trained({ ...options, thought: { ...tinyThought.thought, preset: "reproduce-release" } });
  const config = JSON.parse(await readFile(join(options.run, "config.json"), "utf8"));
  t.like(config.inference, { schedule: "cosine", noise: "shared", learning_rate: [0.34, 0.34] });
  t.is(JSON.parse(await readFile(join(options.run, "state", "state.json"), "utf8")).settings.trajectory, "all");
  const refused = async (thought: object, message: RegExp) => {
    const { options: own } = await fixture(tinyThought);
    await t.throwsAsync(trained({ ...own, thought }), { message });
  };
  await refused({ latents: 5 }, /num_latents.*multiple/);
  await refused({ preset: "release" }, /reproduce-release/);
  await refused({ inference: { noise: "fresh" } }, /noise/);
  await refused({ vectors: 3 }, /vectors/);
});

test("a thought: fitted alike whatever the threads, saved, loaded, refused by other models", async (t) => {
  const [one, two] = await Promise.all([open(1), open(2)]);
  const steps: number[] = [];
  const options = {
    think: { steps: 12 },
    seed: 4,
    onProgress: (progress: { steps: number }) => steps.push(progress.steps),
  };
  const thought = await one.model.infer("abcabcabc", options);
  t.deepEqual((await two.model.infer("abcabcabc", { think: { steps: 12 }, seed: 4 })).z, thought.z);
  t.deepEqual(thought.shape, [4, 32]);
  t.is(thought.steps, 12);
  t.is(thought.curve.kl.length, 13);
  t.true(steps.every((count) => count > 0 && count <= 12));
  t.true(Math.abs(thought.klPerVector.reduce((sum, own) => sum + own, 0) - thought.kl) < 1e-9 && thought.kl > 0);
  const path = join(await scratch(), "thought.safetensors");
  await thought.save(path);
  const back = await two.model.loadThought(path);
  t.deepEqual([back.mean, back.logVariance, back.z], [thought.mean, thought.logVariance, thought.z]);
  t.deepEqual(back.curve, thought.curve);
  const { options: other } = await fixture({ ...tinyThought, steps: 3, seed: 9 });
  await trained(other);
  await using stranger = await one.engine.load(other.run, { family: "thought" });
  await t.throwsAsync(stranger.loadThought(path), { code: "ERR_BAD_CHECKPOINT", message: /another model/ });
  await t.throwsAsync(async () => stranger.generate({ thought }), { message: /another model/ });
  await writeFile(path, (await readFile(path)).subarray(0, 100));
  await t.throwsAsync(one.model.loadThought(path), { code: "ERR_BAD_CHECKPOINT" });
  await t.throwsAsync(one.model.infer(""), { message: /0 tokens, expected 1/ });
  await t.throwsAsync(one.model.infer("a".repeat(25)), { code: "ERR_PROMPT_TOO_LONG" });
  await t.throwsAsync(one.model.infer("a", { think: { steps: -1 } }), { message: /think.steps/ });
  one.engine.dispose();
  two.engine.dispose();
});

test("a text depends on its seed alone; thinking more, again and in many ways", async (t) => {
  const { engine, model } = await open(2);
  const options = { prompt: "abc", maxTokens: 12, seed: 5 };
  let streamed = "";
  const generation = model.generate(options);
  for await (const event of generation) if (event.type === "commit") streamed += event.text;
  const alone = await generation;
  t.is(streamed, alone.text);
  const batch = await model.generateBatch({ prompts: ["xyz", "abc"], maxTokens: 12, seed: 4 });
  t.deepEqual(batch[1]!.ids, alone.ids);
  const drafts: number[] = [];
  const grown: number[][] = [];
  const texts: string[] = [];
  for await (const event of model.generate({ ...options, refine: true }))
    if (event.type === "refine") {
      grown.push(Array.from(event.ids));
      texts.push(event.text);
    }
  t.is(texts.at(-1), alone.text);
  // How many tokens come at a time is the machine's affair.
  t.true(grown.length > 0 && grown.every((ids, i) => i === 0 || ids.length > grown[i - 1]!.length));
  t.deepEqual(grown.at(-1)!.slice(-alone.ids.length), Array.from(alone.ids));
  const rethought = model.generate({ ...options, rounds: 2, drafts: 2, refine: true });
  for await (const event of rethought) if (event.type === "refine") drafts.push(event.step);
  t.deepEqual(drafts, [0, 1, 2]);
  t.deepEqual((await model.generate({ ...options, rounds: 2, drafts: 2 })).ids, (await rethought).ids);
  const refitted = await model.generate({ ...options, refitEvery: 5 });
  t.deepEqual(refitted.ids.slice(0, 5), alone.ids.slice(0, 5), "until the first refit it is the same text");
  const refused = (own: object, message: RegExp) => t.throwsAsync(async () => model.generate(own), { message });
  await refused({ rounds: -1 }, /rounds/);
  await refused({ think: { steps: 1.5 } }, /think.steps/);
  await refused({ thought: {} }, /thought/);
  await refused({ prompt: "abc", maxTokens: 99 }, /positions/);
  const controller = new AbortController();
  controller.abort(new Error("enough"));
  await t.throwsAsync(async () => model.generate({ ...options, signal: controller.signal }), { message: "enough" });
  engine.dispose();
});

test("between two thoughts, and by layers", async (t) => {
  const { engine, model } = await open();
  const [a, b] = [model.imagine({ seed: 1 }), model.imagine({ seed: 2 })];
  t.deepEqual(model.between(a, b, 0).mean, a.mean);
  const length = (values: Float32Array) => Math.hypot(...values);
  const half = length(model.between(a, b, 0.5).z);
  t.true(Math.abs(half - (length(a.z) + length(b.z)) / 2) < 1e-3 * half);
  const first = model.onlyLayers(a, [0]);
  t.deepEqual(first.z.subarray(0, 64), a.z.subarray(0, 64));
  t.true(first.z.subarray(64).every((x) => x === 0));
  t.throws(() => model.onlyLayers(a, [2]), { message: /layers/ });
  t.throws(() => model.between(a, b, 2), { message: /share/ });
  const { kl, byLayers, tokens } = await model.inspect("abcabc");
  t.deepEqual(
    kl.map((layer) => layer.length),
    [2, 2],
  );
  t.is(byLayers.length, 3);
  t.is(tokens, 6);
  engine.dispose();
});

test("scoring: fresh draws, tighter by importance; a context is fitted, not paid for", async (t) => {
  const { engine, model, folder } = await open();
  const score = await model.score("abcabcabc", { draws: 16 });
  t.true(score.nats >= score.importanceWeighted! - 1e-6 && score.standardError >= 0);
  t.is(score.tokens, 9);
  const rest = await model.score("abcabc", { context: "abc", draws: 16 });
  t.is(rest.tokens, 6);
  t.true(rest.nats < score.nats);
  const file = join(await scratch(), "text.txt");
  await writeFile(file, "abcabcabcabc".repeat(6));
  const { bound, importanceWeighted } = await evaluate(model, file, { draws: 4 });
  t.true(bound >= importanceWeighted!);
  const text = await noema("generate", folder, "--prompt", "abc", "--max-tokens", "8", "--seed", "3", "--think", "6");
  const own = await model.generate({ prompt: "abc", maxTokens: 8, seed: 3, think: { steps: 6 } });
  t.is(text.out, `${own.text}\n`);
  t.regex((await noema("generate", folder, "--prompt", "a", "--exit", "1")).error, /"exit" is for flow models/);
  engine.dispose();
});

const fit = {
  ...{ steps: 16, firstRate: 0.3, lastRate: 0.34, schedule: "linear" as const },
  ...{ noise: "resample" as const, logVarianceInit: -4 },
};

test("the divergence's weight rises by stairs, and what it does not push stays narrow", (t) => {
  t.deepEqual(
    [0, 1, 19, 20, 500, 999, 1000, 5000].map((step) => klWeight(step, 1000)),
    [0, 0, 0, 0.02, 0.5, 0.98, 1, 1],
  );
  t.is(klWeight(0, 0), 1);
  t.like(quietened(fit, 1), { ...fit, klWeight: 1 });
  t.like(quietened(fit, 0), { steps: 16, klWeight: 0, logVarianceInit: -5 });
  t.like(quietened(fit, 0.5), { klWeight: 0.5, logVarianceInit: -4.5 });
  t.like(quietened({ ...fit, logVarianceInit: -8 }, 0), { logVarianceInit: -8 });
});
