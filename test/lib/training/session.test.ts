import { join } from "node:path";
import test from "ava";
import type { TrainerBuffer } from "../../../lib/native/addon.js";
import { freshWeights } from "../../../lib/training/initialise.js";
import { MaskedObjective } from "../../../lib/training/masked/objective.js";
import { MetricsLog } from "../../../lib/training/metrics.js";
import { resolveOptions, type TrainOptions } from "../../../lib/training/options.js";
import { Session } from "../../../lib/training/session.js";
import { FakeEngine, type FakeTrainer, tinyConfig } from "./fake.js";
import { scratch } from "./scratch.js";
import { stateAt } from "./tiny-state.js";

const sample = async (prompt: string, seed: number) => `${prompt}${seed}`;

async function open(options: Partial<TrainOptions> = {}, engine = new FakeEngine()) {
  const run = await scratch();
  const given = { steps: 40, warmup: 4, rate: 0.05, batch: 6, length: 8, microBatch: 6, ...options };
  const settings = resolveOptions({ run, corpus: ["x"], tokenizer: "x", ...given });
  const model = await engine.loadMasked(tinyConfig, freshWeights(tinyConfig, settings.seed));
  const trainer = (await model.trainer({ keepAverage: true })) as FakeTrainer;
  // A chain 3 -> 4 -> ... -> 11 -> 3: the left neighbour says it all.
  const row = (start: number) => Array.from({ length: 8 }, (_, i) => 3 + ((start + i) % 9));
  const rows = (step: number) => Array.from({ length: settings.batch }, (_, b) => row(step * 5 + b * 2));
  const data = { batch: async (step: number) => Int32Array.from(rows(step).flat()), close: async () => undefined };
  const heldOut = [0, 1, 2, 3].map((index) => ({ index, ids: Int32Array.from(row(index)) }));
  const session = new Session({
    ...{ run, settings, data, heldOut, resumed: false, tokenizerPath: "", samplePrompts: ["a", "b"] },
    objective: new MaskedObjective({ config: tinyConfig, settings, model, trainer, sample }),
    metrics: await MetricsLog.open(join(run, "metrics.jsonl"), 0),
    state: { ...stateAt(0), settings },
  });
  return { session, trainer };
}

function buffers(trainer: FakeTrainer) {
  const kinds: TrainerBuffer[] = ["parameter", "gradient", "m", "v", "average"];
  return kinds.map((kind) => [...trainer.buffers[kind]].map(([name, data]) => [name, [...data]]));
}

test("the loss falls, and so does the held-out bound", async (t) => {
  const { session } = await open();
  const before = await session.evaluate();
  t.true(Math.abs(before.bound - Math.log(11)) < 0.1, `${before.bound}: an untrained model knows nothing`);
  for (let step = 0; step < 40; step++) await session.advance();
  const after = await session.evaluate();
  t.true(after.bound < 0.9 * before.bound, `${before.bound} -> ${after.bound}`);
  t.is(after.source, "average");
  t.is(after.step, 40);
});

test("a step is a pure function of state, seed and step", async (t) => {
  const [a, b, c] = await Promise.all([open(), open(), open({ seed: 1 })]);
  for (let step = 0; step < 5; step++) for (const { session } of [a, b, c]) await session.advance();
  t.deepEqual(buffers(a.trainer), buffers(b.trainer));
  t.notDeepEqual(buffers(a.trainer), buffers(c.trainer));
});

test("evaluating, sampling and publishing change nothing", async (t) => {
  const [plain, watched] = await Promise.all([open(), open()]);
  for (let step = 0; step < 4; step++) {
    await plain.session.advance();
    await watched.session.advance();
    await watched.session.evaluate();
    for await (const _ of watched.session.samples());
  }
  t.deepEqual(buffers(plain.trainer), buffers(watched.trainer));
  t.deepEqual(watched.trainer.published, Array(4).fill("average"));
});

test("micro-batches see the same masks: losses and parameters agree to rounding", async (t) => {
  const [whole, cut] = await Promise.all([open(), open({ microBatch: 4 })]);
  for (let step = 0; step < 5; step++) {
    const [a, b] = [await whole.session.advance(), await cut.session.advance()];
    t.true(Math.abs(a.loss - b.loss) < 1e-5);
  }
});

test("a loss that is not finite names the step, keeps the parameters and zeroes the gradients", async (t) => {
  const engine = new FakeEngine();
  engine.poisonedStep = 3;
  const { session, trainer } = await open({}, engine);
  await session.advance();
  await session.advance();
  const before = buffers(trainer);
  await t.throwsAsync(session.advance(), { code: "ERR_NON_FINITE", message: /^step 3: .*nan; nothing was saved yet/ });
  t.deepEqual(buffers(trainer), before);
  t.is(session.step, 2);
});

test("samples carry prompt and seed", async (t) => {
  const { session } = await open();
  const texts: string[] = [];
  for await (const { text } of session.samples()) texts.push(text);
  t.deepEqual(texts, ["a0", "b1"]);
});
