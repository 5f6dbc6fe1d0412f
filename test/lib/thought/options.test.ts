/** What a thought model is asked for: what is wrong is refused by name, and so is what would have no effect. */

import test from "ava";
import type { ThoughtBatchOptions, ThoughtGenerateOptions } from "../../../lib/index.js";
import { Thought } from "../../../lib/posterior/thought.js";
import { fakeThought, SIZE } from "./fake-thought.js";

test("arguments of a wrong type are refused by name", async (t) => {
  const { model } = fakeThought();
  const thought = model.imagine();
  const wrong = (attempt: () => unknown, message: RegExp, code = "ERR_INVALID_ARGUMENT") =>
    t.throwsAsync(async () => attempt(), { name: "NoemaError", code, message });
  await wrong(() => model.onlyLayers(thought, undefined as never), /^layers: expected a list of layers/);
  await wrong(() => model.onlyLayers(thought, "01" as never), /^layers: expected a list of layers/);
  await wrong(() => model.onlyLayers(thought, ["0"] as never), /^layers: expected an integer from 0 to 1/);
  await wrong(() => model.onlyLayers(5 as never, [0]), /^thought: expected a thought/);
  await wrong(() => model.imagine(null as never), /^imagine options: expected an object/);
  await wrong(() => model.imagine({ sed: 5 } as never), /"sed"; did you mean "seed"/, "ERR_UNKNOWN_OPTION");
  await wrong(() => model.imagine({ scale: -1 }), /^scale/);
  await wrong(() => model.loadThought(5 as never), /^path: expected the path/);
  await wrong(() => thought.save(undefined as never), /^path: expected the path/);
  await wrong(() => model.between(thought, undefined as never, 0.5), /^thought: expected a thought/);
});

test("what would have no effect is refused; where it has one, it is not", async (t) => {
  const { model } = fakeThought();
  const thought = model.imagine();
  const prompt = [5, 6];
  const idle = (options: ThoughtGenerateOptions, message: RegExp) =>
    t.throwsAsync(async () => model.generate({ maxTokens: 2, ...options }), { code: "ERR_INVALID_ARGUMENT", message });
  const fine = (options: ThoughtGenerateOptions) =>
    t.notThrowsAsync(async () => model.generate({ maxTokens: 2, ...options }));
  const think = { steps: 3 };
  await idle({ thought, think }, /think has no effect/);
  await fine({ thought });
  await fine({ thought, think, rounds: 1 });
  await fine({ thought, think, refitEvery: 1 });
  await fine({ thought, think, drafts: 2 });
  await idle({ thought, priorScale: 1 }, /priorScale has no effect: the thought is given/);
  await idle({ prompt, priorScale: 1 }, /priorScale has no effect: .* fitted to the prompt/);
  await fine({ prompt: [], priorScale: 0.5 });
  await idle({ thought, drafts: 2, temperature: 0 }, /drafts would all be the same text/);
  await idle({ thought, drafts: 2, topK: 1 }, /drafts would all be the same text/);
  await fine({ drafts: 2, temperature: 0 });
  await fine({ thought, drafts: 2 });
  await fine({ thought, drafts: 2, temperature: 0, refitEvery: 1 });
  await fine({ thought, drafts: 2, temperature: 0, rounds: 1 });
  const batch = (options: ThoughtBatchOptions) => model.generateBatch({ maxTokens: 2, ...options });
  await t.throwsAsync(batch({ prompts: [prompt], priorScale: 1 }), { message: /priorScale has no effect/ });
  await t.notThrowsAsync(batch({ prompts: [prompt, []], priorScale: 1 }));
});

test("a thought for some layers costs nothing in the others", async (t) => {
  const { model } = fakeThought();
  const whole = await model.infer([5, 6]);
  const [first, second] = whole.klPerVector;
  const only = model.onlyLayers(whole, [1]);
  t.deepEqual([...only.klPerVector], [0, second]);
  t.is(only.kl, second!);
  t.deepEqual([...model.onlyLayers(whole, [0]).klPerVector], [first, 0]);
  for (const values of [only.mean, only.logVariance, only.z])
    t.true(values.subarray(0, SIZE / 2).every((x) => x === 0) && values.subarray(SIZE / 2).every((x) => x !== 0));
  t.is(model.onlyLayers(whole, [0, 1]).kl, whole.kl);
  t.is(model.onlyLayers(whole, []).kl, 0);
});

test("between opposite draws the way leads straight through zero", (t) => {
  const { model } = fakeThought();
  const from = model.imagine({ seed: 1 });
  const to = new Thought({ ...from.parts, z: from.z.map((value) => -value) });
  const shares = [0, 0.25, 0.5, 1].map((share) => model.between(from, to, share).z);
  const expected = [1, 0.5, 0, -1].map((scale) => from.z.map((value) => scale * value + 0));
  for (const [i, z] of shares.entries()) t.deepEqual([...z.map((value) => value + 0)], [...expected[i]!]);
});
