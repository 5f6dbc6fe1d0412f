import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { createEngine, type EvaluateOptions, evaluate, type ThoughtModel } from "../../../lib/index.js";
import { noema } from "../../support/command.js";
import { scratch } from "../training/scratch.js";
import { fixture, trained } from "../training/tiny-run.js";
import { tinyThought } from "./tiny-thought.js";

interface Setting {
  folder: string;
  /** 100 tokens: windows of 24, and a rest of 5 with the end of the text. */
  file: string;
}

let setting: Promise<Setting> | undefined;

async function prepare(): Promise<Setting> {
  const { options } = await fixture(tinyThought);
  await trained(options);
  const file = join(await scratch(), "text.txt");
  await writeFile(file, "abcabcabcabd xyzzy cab dab ".repeat(4).slice(0, 100));
  return { folder: options.run, file };
}

async function judged(use: (judge: (options?: EvaluateOptions) => ReturnType<typeof evaluate>) => Promise<void>) {
  setting ??= prepare();
  const { folder, file } = await setting;
  await using engine = await createEngine({ threads: 1 });
  const model: ThoughtModel = await engine.load(folder, { family: "thought" });
  await use((options) => evaluate(model, file, options));
}

test("the bound by fresh draws: cross-entropy and KL apart, weighting by importance below", (t) =>
  judged(async (judge) => {
    const result = await judge({ draws: 32 });
    t.like(result, { kind: "upper", form: "fresh-noise", draws: 32, tokens: 101, sequences: 5 });
    const { crossEntropy, kl, steps } = result.thought!;
    t.true(Math.abs(crossEntropy + kl - result.bound) < 1e-9);
    t.true(kl > 0 && result.drawError > 0 && result.standardError > 0);
    t.is(steps, 4, "the checkpoint's");
    t.true(result.importanceWeighted! < result.bound);
    const one = await judge({ draws: 1 });
    t.true(result.importanceWeighted! < one.importanceWeighted!, "more draws tighten it");
    t.deepEqual(await judge({ draws: 32, callTokens: 1 }), result, "a window does not depend on those beside it");
  }));

test("more thought says more of the text, and no number of steps leaves variances half-way; fits at rest are told by their mean", (t) =>
  judged(async (judge) => {
    const of = (steps: number) => judge({ think: { steps } });
    const [none, short, own, some, long] = [await of(0), await of(2), await of(4), await of(9), await of(64)];
    t.is(short!.thought!.steps, 2);
    t.true(none!.thought!.kl < 0.05, "the prior, but for the start's spread");
    t.true(long!.thought!.crossEntropy < none!.thought!.crossEntropy);
    for (const { bound, thought } of [short!, own!, some!, long!]) t.true(thought!.kl < 0.2, `${bound}`);
    const resting = await judge({ think: { steps: 64, tolerance: 10 } });
    t.true(resting.thought!.steps >= 7 && resting.thought!.steps < 64);
    await t.throwsAsync(judge({ think: { steps: -1 } }), { code: "ERR_INVALID_ARGUMENT", message: /think\.steps/ });
  }));

const STORY = `Once upon a time, there was a little girl named Lily. She had a red ball that she loved very much. One day she
took it to the park, and the ball rolled into the pond. Lily was sad. A duck swam up to her and said, "Do not cry, I will help you."
The duck pushed the ball with its beak until it came back to her. Lily smiled and thanked the duck. From then on they were friends.`;

test("on a story, by the model that comes with noema: importance weighting tightens, and both parts are told", async (t) => {
  await using engine = await createEngine();
  await using model = await engine.load("models/tales-thought", { family: "thought" });
  const file = join(await scratch(), "story.txt");
  await writeFile(file, STORY);
  const { bound, importanceWeighted, thought, tokens } = await evaluate(model, file, { draws: 8 });
  t.true(tokens > 80 && bound < 4.5, "a story to it, not noise: of 4096 tokens, 8.3 nats would be none the wiser");
  t.true(importanceWeighted! < bound && bound - importanceWeighted! < 1);
  t.true(thought!.crossEntropy > 1 && thought!.kl > 0 && Math.abs(thought!.crossEntropy + thought!.kl - bound) < 1e-9);
});

test("a model loaded with fewer latents has thoughts of its own", async (t) => {
  setting ??= prepare();
  const { folder, file } = await setting;
  await using engine = await createEngine({ threads: 1 });
  const load = (latents: number) => engine.load(folder, { family: "thought", latents });
  await using model = await engine.load(folder, { family: "thought" });
  await using narrow = await load(2);
  t.is(narrow.info.numLatents, 2);
  const thought = await narrow.infer("abcabc");
  t.deepEqual(thought.shape, [2, 32]);
  t.not((await evaluate(narrow, file)).bound, (await evaluate(model, file)).bound);
  t.is((await narrow.generate({ thought, prompt: "abc", maxTokens: 4, temperature: 0 })).ids.length, 4);
  await t.throwsAsync(async () => model.generate({ thought }), { message: /another model/ });
  for (const latents of [3, 0, -2, 1.5, 6])
    await t.throwsAsync(load(latents), { code: "ERR_INVALID_ARGUMENT", message: /latents.*multiple of the 2 layers/ });
  const masked = engine.load("models/tales-masked", { latents: 2 });
  await t.throwsAsync(masked, { code: "ERR_INVALID_ARGUMENT", message: /latents.*tales-masked is a masked model/ });
});

test("the same-noise figure has a name of its own, and changes no other", (t) =>
  judged(async (judge) => {
    const options = { draws: 4, think: { steps: 16 } };
    const plain = await judge(options);
    t.false("sameNoiseNelbo" in plain);
    const { sameNoiseNelbo, ...rest } = await judge({ ...options, sameNoise: true });
    t.deepEqual(rest, plain);
    t.true(sameNoiseNelbo! > 0 && sameNoiseNelbo !== plain.bound);
    const shared = await judge({ ...options, think: { steps: 16, noise: "shared" }, sameNoise: true });
    t.is(shared.sameNoiseNelbo, sameNoiseNelbo, "the same fit");
    t.true(shared.sameNoiseNelbo! < shared.bound, "fresh draws do not know the noise that the fit went around");
    await t.throwsAsync(judge({ sameNoise: true, prefix: 4 }), { code: "ERR_INVALID_ARGUMENT", message: /sameNoise/ });
  }));

test("continuations: thoughts of the prefix alone, which the rest does not pay for", (t) =>
  judged(async (judge) => {
    const result = await judge({ prefix: 9, draws: 8 });
    t.like(result, { prefix: 9, sequences: 4, tokens: 4 * 15, thought: { kl: 0, steps: 4 } });
    t.is(result.thought!.crossEntropy, result.bound);
    t.true(result.importanceWeighted! <= result.bound);
    t.deepEqual(await judge({ prefix: 9, draws: 8, callTokens: 1 }), result);
    await t.throwsAsync(judge({ prefix: 24 }), { code: "ERR_INVALID_ARGUMENT", message: /prefix: .* to 23/ });
  }));

test("a signal ends a fit on its way", (t) =>
  judged(async (judge) => {
    const controller = new AbortController();
    const endless = { steps: 1 << 16, rate: 1e-4, schedule: "constant" } as const;
    const running = judge({ think: endless, signal: controller.signal });
    setTimeout(() => controller.abort(new Error("enough")), 50);
    await t.throwsAsync(running, { message: "enough" });
  }));

test("on the command line", async (t) => {
  setting ??= prepare();
  const { folder, file } = await setting;
  const call = (...flags: string[]) => noema("evaluate", folder, file, "--draws", "4", "--think", "6", ...flags);
  const { out } = await call("--same-noise");
  t.regex(out, /^nats per token {6}at most \d/);
  t.regex(out, /\n {20}cross-entropy \d+\.\d+ \+ KL \d+\.\d+, 6 steps of the fast loop\n/);
  t.regex(out, /\nIWAE-4 {14}at most \d/);
  t.regex(out, /\nsame_noise_nelbo {4}\d+\.\d+, no bound/);
  t.regex(out, /, 4 draws, fresh-noise\n$/);
  const told = JSON.parse((await call("--same-noise", "--json")).out);
  t.is(typeof told.same_noise_nelbo, "number");
  t.false("sameNoiseNelbo" in told);
  t.is(told.thought.steps, 6);
  t.false("same_noise_nelbo" in JSON.parse((await call("--json")).out));
  const continued = await call("--prefix", "8");
  t.regex(continued.out, /fitted to the given tokens alone, 6 steps/);
  t.regex(continued.out, /scored {14}64 tokens after 8 of every window/);
  t.regex((await call("--prefix", "x")).error, /--prefix: "x" is no number/);
  t.regex((await noema("score", folder, "abc", "--think", "3")).out, /fresh-noise/);
});
