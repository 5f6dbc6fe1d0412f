import { readFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { createEngine, evaluate, type TrainOptions } from "../../../lib/index.js";
import { noema } from "../../support/command.js";
import { fixture, outcomeOf, trained } from "./tiny-run.js";

/** Two blocks of width 32 on text that a few dozen steps can learn. */
const learnable: Partial<TrainOptions> = {
  shape: { hidden: 32, heads: 2, layers: 2 },
  ...{ steps: 60, batch: 8, microBatch: 4, length: 24, warmup: 5, rate: 0.01, ema: 0.9 },
  ...{ evaluateEvery: 30, evaluateDraws: 4, saveEvery: 30 },
};

for (const precision of ["f32", "bf16"] as const) {
  test(`${precision}: the held-out bound falls, and resuming changes no bit, whatever the threads`, async (t) => {
    const [whole, cut] = await Promise.all([
      fixture({ ...learnable, precision }),
      fixture({ ...learnable, precision }),
    ]);
    const events = await trained(whole.options);
    const bounds = events.flatMap((event) => (event.type === "held-out" ? [event.bound] : []));
    t.is(bounds.length, 3);
    t.true(Math.abs(bounds[0]! - Math.log(98)) < 0.2, `untrained: ${bounds[0]}`);
    t.true(bounds[2]! < 0.7 * bounds[0]!, bounds.join(" "));
    await trained({ ...cut.options, stopAt: 23 }, { threads: 2 });
    await trained({ ...cut.options, stopAt: 41 });
    await trained(cut.options, { threads: 2 });
    t.deepEqual(await outcomeOf(cut.options.run), await outcomeOf(whole.options.run));
  });
}

test("a trained checkpoint loads, scores, evaluates and writes; samples come while training", async (t) => {
  const { options, folder } = await fixture({
    ...learnable,
    sampleEvery: 30,
    sampleLength: 10,
    samplePrompts: ["abc"],
  });
  const events = await trained(options);
  const samples = events.flatMap((event) => (event.type === "sample" ? [event.text] : []));
  t.is(samples.length, 2);
  t.true(samples.every((sample) => sample.startsWith("abc")));
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(options.run, { family: "masked" });
  const known = await model.score("abcabcabcabc");
  const unknown = await model.score("qQ!7Zk(w)K?j");
  t.true(known.nats < 0.6 * unknown.nats, `${known.nats} ${unknown.nats}`);
  const evaluation = await evaluate(model, join(folder, "valid.txt"));
  t.true(evaluation.perplexity > 1 && evaluation.perplexity < 40, `${evaluation.perplexity}`);
  const { text: written } = await model.generate({ prompt: "abc", maxTokens: 8 });
  t.is(typeof written, "string");
});

test("on the command line: train, go on, evaluate; flags and recipe agree", async (t) => {
  const { options, folder } = await fixture();
  const flags = [
    "--run",
    options.run,
    "--tokenizer",
    options.tokenizer!,
    "--corpus",
    join(folder, "a.txt"),
    `${join(folder, "b.txt")}=0.5`,
  ];
  const shape = ["--hidden", "16", "--heads", "2", "--layers", "1", "--length", "16", "--batch", "4", "--steps", "4"];
  const first = await noema("train", ...flags, ...shape, "--held-out", join(folder, "valid.txt"), "--stop-at", "2");
  t.is(first.error, "");
  t.is(first.code, 0);
  t.regex(first.out, /starting: 0\.\d\d M parameters.*\n.*held-out .*\nstopped at step 2/s);
  const recipe = join(options.run, "recipe.json");
  const second = await noema("train", recipe, "--stop-at", "0", "--json");
  t.is(second.error, "");
  const events = second.out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  t.deepEqual([events[0].type, events[0].step, events.at(-1).reason], ["start", 2, "complete"]);
  const scored = await noema("score", options.run, "abc", "xyz", "--draws", "4", "--json");
  t.deepEqual(
    scored.out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line).tokens),
    [3, 3],
  );
  const evaluated = await noema("evaluate", options.run, join(folder, "valid.txt"), "--draws", "2");
  t.regex(evaluated.out, /nats per token {6}at most \d+\.\d+ ± \d+\.\d+ \(over \d+ sequences\)\nperplexity/);
  t.regex(await readFile(join(options.run, "curve.svg"), "utf8"), /^<svg/);
});

test("on the command line: what is wrong is said", async (t) => {
  const { options, folder } = await fixture();
  const base = ["train", "--run", options.run, "--tokenizer", options.tokenizer!, "--corpus", join(folder, "a.txt")];
  const refused = async (args: string[], pattern: RegExp) => {
    const { code, error } = await noema(...args);
    t.true(code > 0);
    t.regex(error, pattern);
  };
  await refused([...base, "--rate", "fast"], /ERR_INVALID_ARGUMENT: train: rate is "fast"/);
  await refused([...base, "--schedule", "cosin"], /ERR_UNKNOWN_OPTION: .*did you mean "cosine"/);
  await refused([...base, "--stpes", "3"], /ERR_UNKNOWN_OPTION: .*did you mean --steps/);
  await refused(["train", "/nonexistent/recipe.json"], /ERR_IO/);
  await refused(["train", options.tokenizer!], /ERR_UNKNOWN_OPTION|ERR_INVALID_ARGUMENT/);
  await refused(["score", "/nonexistent/model", "text"], /ERR_IO/);
  await refused(["evaluate", "/nonexistent/model", join(folder, "a.txt"), "--limit", "x"], /--limit: "x" is no number/);
});
