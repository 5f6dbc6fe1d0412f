import { readFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { createEngine, evaluate, type HeldOutMetric, type TrainOptions } from "../../lib/index.js";
import { noema } from "../support/command.js";
import { fixture, outcomeOf, trained } from "./training/tiny-run.js";

/** Two blocks of width 32 on text that a few dozen steps can learn. */
const learnable: Partial<TrainOptions> = {
  family: "autoregressive",
  shape: { hidden: 32, heads: 2, layers: 2 },
  ...{ steps: 80, batch: 8, microBatch: 4, length: 24, warmup: 5, rate: 0.004, ema: 0.9 },
  ...{ evaluateEvery: 40, saveEvery: 30 },
};

const heldOut = (events: readonly { type: string }[]) =>
  events.filter((event): event is HeldOutMetric => event.type === "held-out");

for (const precision of ["f32", "bf16"] as const) {
  test(`${precision}: learns more than frequencies, and resuming changes no bit, whatever the threads`, async (t) => {
    const [whole, cut] = await Promise.all([
      fixture({ ...learnable, precision }),
      fixture({ ...learnable, precision }),
    ]);
    const judged = heldOut(await trained(whole.options));
    t.is(judged.length, 3);
    t.like(judged[2], { kind: "exact", draws: 0, sequences: 4 });
    const nats = judged.map(({ bound }) => bound);
    t.true(Math.abs(nats[0]! - Math.log(99)) < 0.2, `untrained: ${nats[0]}`);
    // The held-out text is a third "a", a third "b", a third "c".
    t.true(nats[2]! < 0.7 * Math.log(3), `${nats}`);
    await trained({ ...cut.options, stopAt: 23 }, { threads: 2 });
    await trained({ ...cut.options, stopAt: 41 });
    await trained(cut.options, { threads: 2 });
    t.deepEqual(await outcomeOf(cut.options.run), await outcomeOf(whole.options.run));
  });
}

test("a trained checkpoint loads, scores exactly, and evaluates as training did", async (t) => {
  const { options, folder } = await fixture({ ...learnable, precision: "f32", steps: 20, evaluateEvery: 20 });
  await trained(options);
  t.regex(await readFile(join(options.run, "curve.svg"), "utf8"), />nats per token</);
  await using engine = await createEngine({ threads: 2 });
  await using model = await engine.load(options.run, { family: "autoregressive" });
  t.like(model.info, { family: "autoregressive", layout: "noema-autoregressive", maxPositions: 24, bosTokenId: 0 });
  const known = await model.score("abcabcabcabc");
  const unknown = await model.score("qQ!7Zk(w)K?j");
  t.true(known.nats < 0.6 * unknown.nats, `${known.nats} ${unknown.nats}`);
  t.like(known, { bound: "exact", form: "chain-rule", draws: 0, standardError: 0, tokens: 12, windows: 1 });
  const first = await model.score("abcab");
  const rest = await model.score("cabcabc", { context: "abcab" });
  t.is(rest.tokens, 7);
  t.true(Math.abs(first.nats + rest.nats - known.nats) < 1e-4, "the chain rule");
  const whole = await evaluate(model, join(folder, "valid.txt"));
  t.like(whole, { kind: "exact", form: "chain-rule", draws: 0, tokens: 121, sequences: 6, drawError: 0 });
  t.true(whole.standardError > 0 && whole.bound < 3);
  const oneByOne = await evaluate(model, join(folder, "valid.txt"), { callTokens: 1 });
  t.is(oneByOne.bound, whole.bound, "a window does not depend on those beside it");
  // Five windows that all begin alike; the last, of one token, is left out.
  const continued = await evaluate(model, join(folder, "valid.txt"), { prefix: 8 });
  t.like(continued, { kind: "exact", prefix: 8, sequences: 5, tokens: 5 * 16 });
  const windows = await evaluate(model, join(folder, "valid.txt"), { limit: 5 });
  const prefixes = 5 * (await model.score("abcabcab")).nats;
  t.true(Math.abs(windows.nats - prefixes - continued.nats) < 1e-9, "the chain rule");
});

test("it writes no texts: refused wherever texts are asked for", async (t) => {
  const { options } = await fixture({ ...learnable, steps: 1 });
  await trained(options);
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(options.run);
  const refusal = { code: "ERR_UNSUPPORTED", message: /writes no texts/ };
  await t.throwsAsync(async () => await model.generate({ prompt: "abc" }), refusal);
  await t.throwsAsync(model.generateBatch({ prompts: ["abc"] }), refusal);
  await t.throwsAsync(engine.load(options.run, { family: "masked" }), { code: "ERR_UNSUPPORTED" });
  await t.throwsAsync(trained({ ...options, run: `${options.run}-2`, sampleEvery: 1 }), refusal);
  const { code, error } = await noema("generate", options.run, "--prompt", "abc");
  t.true(code > 0);
  t.regex(error, /ERR_UNSUPPORTED: .*writes no texts/);
});

test("options that do not fit are refused", async (t) => {
  const { options } = await fixture({ ...learnable, steps: 1 });
  await trained(options);
  const refused = (changes: object, expected: object) =>
    t.throwsAsync(trained({ ...options, run: `${options.run}-2`, ...changes } as TrainOptions), expected);
  await refused({ family: "autoregresive" }, { code: "ERR_UNKNOWN_OPTION", message: /did you mean "autoregressive"/ });
  await refused({ family: 3 }, { code: "ERR_INVALID_ARGUMENT", message: /family is 3/ });
  await refused({ flow: { flows: [] } }, { code: "ERR_INVALID_ARGUMENT", message: /family is "autoregressive"/ });
  await refused({ family: "flow" }, { code: "ERR_INVALID_ARGUMENT", message: /flow is .*expected the stack/ });
  const { shape: _, ...rest } = options;
  const going = { ...rest, init: options.run, run: `${options.run}-3` };
  await t.throwsAsync(trained({ ...going, family: "masked" }), { code: "ERR_UNSUPPORTED", message: /masked family/ });
  await t.notThrowsAsync(trained({ ...going, family: "autoregressive" }));
  const contradiction = { code: "ERR_BAD_STATE", message: /layout/ };
  await t.throwsAsync(trained({ ...options, family: "masked" }), contradiction);
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(options.run, { family: "autoregressive" });
  for (const option of [{ draws: 2 }, { form: "stratified" as const }, { seed: 1 }])
    await t.throwsAsync(model.score("abc", option), { code: "ERR_INVALID_ARGUMENT", message: /is exact/ });
});

test("on the command line", async (t) => {
  const { options, folder } = await fixture();
  const files = ["--tokenizer", options.tokenizer!, "--corpus", join(folder, "a.txt")];
  const shape = ["--hidden", "16", "--heads", "2", "--layers", "1", "--length", "16", "--batch", "4", "--steps", "2"];
  const run = ["train", "--family", "autoregressive", "--run", options.run, ...files, ...shape];
  const { code, out, error } = await noema(...run, "--held-out", join(folder, "valid.txt"));
  t.is(error, "");
  t.is(code, 0);
  t.regex(out, /held-out \d.*\ndone after 2 steps/s);
  const scored = await noema("score", options.run, "abc");
  t.regex(scored.out, /^"abc": \d+\.\d+ ± 0\.000 nats, \d+\.\d+ per token \(3 tokens, chain-rule\)$/m);
  const evaluated = await noema("evaluate", options.run, join(folder, "valid.txt"));
  t.regex(evaluated.out, /^nats per token {6}\d+\.\d+ ± \d+\.\d+ \(over \d+ sequences\)\n/);
  t.regex(evaluated.out, /tokens, chain-rule\n/);
});
