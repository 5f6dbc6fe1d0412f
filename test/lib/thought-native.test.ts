/** The thought family's native calls, as lib will use them: progress, what is left of calls that end early, training. */

import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import type { ThoughtConfig } from "../../lib/checkpoint/config.js";
import { writeCheckpoint } from "../../lib/checkpoint/folder.js";
import { noemaThought } from "../../lib/checkpoint/noema-thought.js";
import { createEngine } from "../../lib/engine.js";
import type { ContinueResult, FitResult, NativeFit, NativeThoughtModel } from "../../lib/native/addon.js";
import { loadAddon } from "../../lib/native/load.js";
import { smallWeights } from "../support/small-model.js";
import { sharedFolder } from "./temporary.js";

const config: ThoughtConfig = {
  layout: "noema-thought",
  ...{ vocabSize: 50, hiddenSize: 32, numLayers: 2, numHeads: 4, intermediateSize: 48, maxPositions: 400 },
  ...{ attentionWindow: 6, numLatents: 4, ropeTheta: 10000, rmsNormEps: 1e-5, tiedEmbeddings: true, bosTokenId: 0 },
  inference: {
    ...{ steps: 4, learningRate: [0.3, 0.34], schedule: "linear" },
    ...{ logVarianceInit: -5, noise: "resample", constantLogVariance: false },
  },
};
const fit: NativeFit = {
  ...{ steps: 6, firstRate: 0.3, lastRate: 0.34, schedule: "linear" },
  ...{ noise: "resample", logVarianceInit: -5 },
};
const latents = 2 * config.numLatents * config.hiddenSize;
const { addon } = loadAddon();

function load(): Promise<NativeThoughtModel> {
  const tensors = noemaThought.tensors(config).map(({ canonical: name, shape }, row) => {
    return { name, dtype: "f32" as const, shape, data: smallWeights(shape, row) };
  });
  return addon.createEngine({ backend: "cpu", threads: 1 }).loadThought(config, tensors, "f32");
}

/** Two sequences of 8 positions. */
function batch() {
  const ids = Int32Array.from({ length: 16 }, (_, i) => (7 * i) % 50);
  return { ids, batch: 2, length: 8, targets: ids.map((id) => (id + 7) % 50), seeds: BigUint64Array.of(1n, 2n) };
}

async function left<T>(t: ExecutionContext, code: string, attempt: Promise<unknown>): Promise<T> {
  const error = await t.throwsAsync<Error & { code: string; partial?: T }>(attempt);
  t.is(error?.code, code, error?.message);
  return error!.partial!;
}

test("a fit: shapes, the same seeds give the same bits, its trace", async (t) => {
  const model = await load();
  const one = await model.fit({ ...batch(), fit: { ...fit, score: true }, trace: true });
  t.is(one.z.length, latents);
  t.deepEqual([...one.steps], [6, 6]);
  t.is(one.crossEntropy.length, 7);
  t.is(one.trace!.mean.length, 7);
  t.deepEqual(one.trace!.mean[6], one.mean);
  t.is(one.trace!.rates[5], 0.34);
  const two = await model.fit({ ...batch(), fit });
  t.deepEqual(two.z, one.z);
  t.is(two.trace, undefined);
  const losses = await model.losses({ ...batch(), z: one.z });
  const nats = losses.subarray(0, 8).reduce((sum, loss) => sum + loss, 0);
  t.true(Math.abs(nats - one.crossEntropy[6]![0]!) < 1e-3);
});

test("progress, and what a fit that is cancelled leaves", async (t) => {
  const model = await load();
  const cancellation = addon.createCancellation();
  const seen: number[] = [];
  const onProgress = (steps: number, objective: Float32Array): void => {
    seen.push(steps);
    t.is(objective.length, 2);
    cancellation.cancel();
  };
  const endless = { ...fit, steps: 1 << 20, schedule: "constant" as const, firstRate: 1e-3 };
  const running = model.fit({ ...batch(), fit: endless, progressEvery: 2, onProgress, cancellation });
  const partial = await left<FitResult>(t, "ERR_ABORTED", running);
  t.true(seen.length >= 1 && seen.every((steps) => steps % 2 === 0));
  t.true(partial.steps[0]! >= seen[0]!);
  t.is(partial.kl.length, partial.steps[0]!);
  t.is(partial.mean.length, latents);
  t.true(partial.mean.every(Number.isFinite));
});

test("an objective that is no number names the step; the last posterior is left", async (t) => {
  const model = await load();
  const rates = { firstRate: 1e30, schedule: "constant" as const };
  const attempt = model.fit({ ...batch(), fit: { ...fit, ...rates } });
  await t.throwsAsync(attempt, { message: /step 1 of sequence 0/ });
  const partial = await left<FitResult>(t, "ERR_NON_FINITE", attempt);
  t.true(partial.mean.every((value) => Math.abs(value) < 0.1));
});

test("continuing: tokens arrive as they come, and are left of what is cancelled", async (t) => {
  const model = await load();
  const { ids, batch: count, length, seeds } = batch();
  const z = new Float32Array(latents).fill(0.1);
  const task = { ids, batch: count, length, seeds, z, temperature: 1, topK: 0, topP: 1 };
  const told: number[] = [];
  const made = await model.continue({ ...task, tokens: 9, onTokens: (tokens) => told.push(...tokens), logits: true });
  t.is(made.logits![1]!.length, 9 * 50);
  for (const b of [0, 1])
    t.deepEqual(
      [...made.tokens[b]!],
      told.filter((_, i) => i % 2 === b),
    );
  const cancellation = addon.createCancellation();
  const running = model.continue({ ...task, tokens: 390, cancellation, onTokens: () => cancellation.cancel() });
  const partial = await left<ContinueResult>(t, "ERR_ABORTED", running);
  const [first] = partial.tokens;
  t.true(first!.length >= 1 && first!.length < 390);
  t.deepEqual([...first!.subarray(0, 9)], [...made.tokens[0]!].slice(0, first!.length));
});

test("bounds: sampled ones keep their order", async (t) => {
  const model = await load();
  const { mean, logVariance } = await model.fit({ ...batch(), fit });
  const bound = await model.bound({ ...batch(), mean, logVariance, count: 4 });
  t.is(bound.crossEntropy.length, 8);
  for (const b of [0, 1]) t.true(bound.nelboSampled[b]! >= bound.iwae[b]!);
});

test("a forward pass tells what is asked for: the likeliest tokens, and what the tokens weigh latents by", async (t) => {
  const model = await load();
  const z = Float32Array.from({ length: latents }, (_, i) => Math.sin(i));
  const { logits, likeliest, attention } = await model.forward({
    ...{ ...batch(), z },
    ...{ logits: true, likeliest: true, attention: true },
  });
  for (const [row, id] of likeliest!.entries()) {
    const own = logits!.subarray(row * 50, (row + 1) * 50);
    t.is(id, own.indexOf(Math.max(...own)));
  }
  t.is(attention!.length, config.numLayers);
  for (const weights of attention!) {
    t.is(weights.length, 16 * 4 * 2);
    for (let i = 0; i < weights.length; i += 2) t.true(Math.abs(weights[i]! + weights[i + 1]! - 1) < 1e-6);
    t.true(weights.some((weight) => Math.abs(weight - 0.5) > 1e-3));
  }
  t.deepEqual(Object.keys(await model.forward({ ...batch(), z, attention: true })), ["attention"]);
});

test("training: a lesson fits, or takes the z that it is given", async (t) => {
  const model = await load();
  const trainer = await model.trainer({ keepAverage: true });
  const weights = new Float32Array(16).fill(1 / 16);
  const lesson = await trainer.accumulate({ ...batch(), weights, fit: { ...fit, repeated: true } });
  t.is(lesson.posterior!.z.length, latents);
  const fitted = await trainer.read("gradient", "layers.1.cross_v.weight");
  t.true(fitted.some((value) => value !== 0));
  await trainer.discard();
  const given = await trainer.accumulate({ ...batch(), weights, z: lesson.posterior!.z });
  t.deepEqual(given.tokenLoss, lesson.tokenLoss);
  t.deepEqual(await trainer.read("gradient", "layers.1.cross_v.weight"), fitted);
  const adamw = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, gradientScale: 1, emaDecay: 0.9, step: 1 };
  await trainer.step({ ...adamw, rate: 1e-2, maxNorm: 1 });
  await trainer.publish("parameter");
  const request = { ...batch(), z: lesson.posterior!.z };
  t.deepEqual(await model.losses(request), await trainer.losses({ ...request, source: "parameter" }));
  t.notDeepEqual(await model.losses(request), await trainer.losses({ ...request, source: "average" }));
});

test("odd arguments are refused by name", async (t) => {
  const model = await load();
  const z = new Float32Array(latents);
  const refused = (attempt: () => unknown, message: RegExp) =>
    t.throws(attempt, { code: "ERR_INVALID_ARGUMENT", message });
  refused(() => model.losses({ ...batch(), z: z.subarray(1) }), /z is .*, expected 256 values/);
  refused(() => model.fit({ ...batch(), seeds: BigUint64Array.of(1n), fit }), /seeds/);
  refused(() => model.fit({ ...batch(), draws: z, fit }), /draws/);
  refused(() => model.fit({ ...batch(), fit: { ...fit, schedule: "up" as "linear" } }), /schedule is up/);
  refused(() => model.forward({ ...batch(), length: 9, z }), /ids/);
});

test("a checkpoint of the family is written, and read back", async (t) => {
  const folder = join(sharedFolder(), "thought");
  const tensors = noemaThought.tensors(config).map(({ canonical, shape }, row): [string, Float32Array] => {
    return [canonical, smallWeights(shape, row)];
  });
  await writeCheckpoint(folder, { config, tensors: new Map(tensors) });
  await using engine = await createEngine({ device: "cpu", threads: 1 });
  t.is((await engine.estimate(folder)).parameters, (await load()).info().parameters);
  await using loaded = await engine.load(folder);
  t.is(loaded.family, "thought");
});
