/** Fits that are watched, that fail and that are aborted: what is told, what is left, and that nothing else changes. */

import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { writeCheckpoint } from "../../../lib/checkpoint/folder.js";
import { noemaThought } from "../../../lib/checkpoint/noema-thought.js";
import { createEngine, type GenerationResult, NoemaError, type ThoughtModel } from "../../../lib/index.js";
import type { FitResult } from "../../../lib/native/addon.js";
import { Thought } from "../../../lib/posterior/thought.js";
import type { LogitsCancellation } from "../../../lib/verification/logits-session.js";
import { rejection } from "../../support/fake-addon.js";
import { smallWeights } from "../../support/small-model.js";
import { sharedFolder } from "../temporary.js";
import { fakeConfig, fakeThought, numbersOf } from "./fake-thought.js";

type Left<T> = NoemaError & { partial?: T };
const text = [5, 6, 7, 8, 9];

/** A checkpoint of about the fake's sizes; `broken`: with weights whose products overflow. */
async function write(broken: boolean): Promise<string> {
  const config = { ...fakeConfig, hiddenSize: 8, numHeads: 2 };
  const folder = join(sharedFolder(), "thought");
  const tensors = noemaThought.tensors(config).map(({ canonical, shape }, row): [string, Float32Array] => {
    const weights = smallWeights(shape, row);
    return [canonical, broken && canonical === "norm.weight" ? weights.fill(3e38) : weights];
  });
  await writeCheckpoint(folder, { config, tensors: new Map(tensors) });
  return folder;
}
let written: Promise<string> | undefined;

function whole(): Promise<string> {
  written ??= write(false);
  return written;
}

async function open(t: ExecutionContext, folder = whole()): Promise<ThoughtModel> {
  const engine = await createEngine({ device: "cpu", threads: 1 });
  t.teardown(() => engine.dispose());
  return engine.load(await folder, { family: "thought" });
}

test("progress comes every so many steps", async (t) => {
  const model = await open(t);
  const told = async (steps: number, progressEvery?: number) => {
    const seen: number[] = [];
    const options = { think: { steps }, onProgress: (progress: { steps: number }) => seen.push(progress.steps) };
    await model.infer(text, { ...options, ...(progressEvery !== undefined && { progressEvery }) });
    return seen;
  };
  t.deepEqual(await told(3), []);
  t.is((await told(3, 1)).at(-1), 3);
  t.is((await told(9)).at(-1), 8);
  t.is((await told(9, 5)).at(-1), 5);
  for (const progressEvery of [0, 1.5, "4"])
    await t.throwsAsync(model.infer(text, { progressEvery } as never), {
      message: /^progressEvery: expected an integer/,
    });
});

test("what a listener throws ends the fit, and is what infer rejects with", async (t) => {
  const model = await open(t);
  const before = await model.infer(text);
  const failure = Object.assign(new Error("the listener's"), { partial: "its own" });
  const onProgress = (): never => {
    throw failure;
  };
  const endless = { think: { steps: 65536 }, progressEvery: 1, onProgress };
  t.is(await rejection(model.infer(text, endless)), failure);
  t.is(failure.partial, "its own");
  t.is(await rejection(model.infer(text, { ...endless, think: { steps: 1 } })), failure, "even at the last step");
  t.deepEqual((await model.infer(text)).parts, before.parts);
});

test("a listener that threw is not told any more, and its fit is asked to end", async (t) => {
  let [told, cancelled] = [0, 0];
  const { model } = fakeThought({
    onFit: async ({ onProgress, cancellation }, well) => {
      for (let steps = 1; steps <= 3; steps++) {
        onProgress!(steps, Float32Array.of(1));
        cancelled += (cancellation as LogitsCancellation).cancelled ? 1 : 0;
      }
      return well;
    },
  });
  const onProgress = (): never => {
    throw new Error(`call ${++told}`);
  };
  await t.throwsAsync(model.infer(text, { onProgress }), { message: "call 1" });
  t.deepEqual([told, cancelled], [1, 3]);
});

test("an objective that is no number: the error names the step, and the last good thought is its partial", async (t) => {
  const model = await open(t, write(true));
  const error = await rejection<Left<Thought>>(model.infer(text, { seed: 3 }));
  t.true(error instanceof NoemaError);
  t.is(error.code, "ERR_NON_FINITE");
  t.regex(error.message, /step 0 of sequence 0/);
  const { partial } = error;
  t.true(partial instanceof Thought);
  t.like(partial, { steps: 0, tokens: 5, shape: [2, 8], curve: { crossEntropy: [], kl: [] } });
  t.true([partial!.mean, partial!.logVariance, partial!.z].every((values) => values.every(Number.isFinite)));
  const path = join(sharedFolder(), "partial.safetensors");
  await partial!.save(path);
  t.deepEqual((await model.loadThought(path)).z, partial!.z);
  t.is((await rejection<Left<unknown>>(model.score(text))).partial, undefined, "a score's error has no use for it");
});

test("abort in the middle of a fit: the thought so far is on an error of its own, and the model is as it was", async (t) => {
  const model = await open(t);
  const read = async () => ({ thought: (await model.infer(text, { seed: 2 })).parts, score: await model.score(text) });
  const before = await read();
  const controller = new AbortController();
  const reason = new Error("enough");
  const abort = () => controller.abort(reason);
  const options = { think: { steps: 65536 }, onProgress: abort, progressEvery: 2, signal: controller.signal };
  const error = await rejection<Left<Thought>>(model.infer(text, options));
  t.like(error, { code: "ERR_ABORTED", cause: reason });
  t.false("partial" in reason);
  const { partial } = error;
  t.true(partial instanceof Thought && partial.steps >= 2 && partial.steps < 65536);
  t.is(partial!.curve.kl.length, partial!.steps);
  t.true(partial!.z.every(Number.isFinite));
  t.deepEqual(await read(), before);
  const begun = AbortSignal.abort(new Error("before"));
  t.is((await rejection<Left<Thought>>(model.infer(text, { signal: begun }))).partial, undefined);
});

test("what of a fit is left goes on as a thought; where it had not begun, nothing does", async (t) => {
  const failing = (left: (well: FitResult) => FitResult) =>
    fakeThought({
      onFit: (_, well) => {
        const error = new NoemaError("ERR_NON_FINITE", "the fit's objective is NaN at step 3 of sequence 0");
        return Promise.reject(Object.assign(error, { partial: left(well) }));
      },
    }).model;
  // As the native side leaves it: two steps, and a draw that nothing has scored.
  const rows = (last: number) => [7, 6, last].map((nats) => Float32Array.of(nats));
  const left = (well: FitResult) => ({ ...well, steps: Int32Array.of(2), crossEntropy: rows(0), kl: rows(5) });
  const { partial } = await rejection<Left<Thought>>(failing(left).infer(text));
  t.deepEqual(partial!.curve, { crossEntropy: [7, 6], kl: [7, 6] });
  t.deepEqual(numbersOf(partial!.z), [100]);
  const none = (well: FitResult) => ({ ...well, mean: new Float32Array(0), steps: new Int32Array(0) });
  t.is((await rejection<Left<Thought>>(failing(none).infer(text))).partial, undefined);
});

test("a text that is aborted has counted what was written of it", async (t) => {
  const { model } = fakeThought({
    onContinue: (_, { tokens, confidence }) => {
      const partial = { tokens: tokens.map((own) => own.subarray(0, 2)), confidence };
      return Promise.reject(Object.assign(new NoemaError("ERR_ABORTED", "cancelled"), { partial }));
    },
  });
  const attempt = model.generate({ prompt: text, maxTokens: 9, think: { steps: 3 } });
  const { partial } = await rejection<Left<GenerationResult>>(attempt);
  t.like(partial, { reason: "abort", usage: { forwards: 3 + 1 + 2 } });
});

test("a text whose fit is aborted hands over the thought so far; one that is written, the thought that it was written by", async (t) => {
  const left = (well: FitResult) => ({ ...well, steps: Int32Array.of(2) });
  const { model, log } = fakeThought({
    onFit: (_, well) =>
      log.fits.length % 2 === 1
        ? Promise.resolve(well)
        : Promise.reject(Object.assign(new NoemaError("ERR_ABORTED", "cancelled"), { partial: left(well) })),
  });
  const numberOf = ({ thought }: GenerationResult) => numbersOf(thought!.z);
  t.deepEqual(numberOf(await model.generate({ prompt: text, maxTokens: 2 })), [100]);
  const failed = await rejection<Left<GenerationResult>>(model.generate({ prompt: text, maxTokens: 2 }));
  t.deepEqual(numberOf(failed.partial!), [101]);
  t.like(failed.partial, { thought: { steps: 2 }, usage: { forwards: 2 } });
  const refitted = model.generate({ prompt: text, maxTokens: 4, think: { steps: 3 }, refitEvery: 2 });
  const { partial } = await rejection<Left<GenerationResult>>(refitted);
  t.deepEqual(numberOf(partial!), [103]);
  t.deepEqual([partial!.usage.forwards, partial!.thought!.tokens], [3 + 1 + 2 + 2, text.length + 2]);
  const given = model.imagine();
  t.is((await model.generate({ prompt: text, maxTokens: 2, thought: given })).thought, given);
});

test("a text of one token has a thought, and is continued", async (t) => {
  const model = await open(t);
  const thought = await model.infer([5]);
  t.is(thought.tokens, 1);
  t.true(thought.z.every(Number.isFinite) && thought.kl > 0);
  const { ids, usage } = await model.generate({ prompt: [5], maxTokens: 4, seed: 1 });
  t.true(ids.length <= 4 && ids.every((id) => id >= 0 && id < 100));
  t.is(usage.promptTokens, 1);
  t.is((await model.score([5])).tokens, 1);
  t.is((await model.inspect([5])).attention[0]!.length, 1);
});
