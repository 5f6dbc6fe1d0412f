/** Drafts on a fake native model: which of them is kept, what thoughts are fitted to, and by which thoughts texts are written. */

import test from "ava";
import { Thought } from "../../../lib/posterior/thought.js";
import { fakeThought, numbersOf, SIZE, startsOf, textsOf } from "./fake-thought.js";

const prompt = [5, 6];
const draft = (number: number, length = 3): number[] => Array<number>(length).fill(number);

/** Two candidates in three rounds: the first has drafts 10, 12 and 14, the second 11, 13 and 15. */
const courses: { best: number; sofar: number[]; bounds: Record<number, number> }[] = [
  { best: 13, sofar: [11, 13, 13], bounds: { 10: 5, 11: 4, 12: 6, 13: 1, 14: 3, 15: 2 } },
  { best: 10, sofar: [10, 10, 10], bounds: { 10: 1, 11: 4, 12: 6, 13: 3, 14: 5, 15: 2 } },
  { best: 14, sofar: [11, 12, 14], bounds: { 10: 5, 11: 4, 12: 3, 13: 6, 14: 1, 15: 2 } },
];
for (const { best, sofar, bounds } of courses)
  test(`of all rounds and candidates the draft with the lowest bound is the text: ${best}`, async (t) => {
    const { model, log } = fakeThought({ nats: (text) => bounds[text.at(-1)!]! });
    const told: number[] = [];
    const generation = model.generate({ prompt, maxTokens: 3, rounds: 2, drafts: 2, refine: true });
    for await (const event of generation) if (event.type === "refine") told.push(event.ids.at(-1)!);
    t.deepEqual([...(await generation).ids], draft(best));
    t.deepEqual(told, sofar);
    t.deepEqual(
      log.bounds.map((request) => textsOf(request).map((text) => text.at(-1))),
      [
        [10, 11],
        [12, 13],
        [14, 15],
      ],
    );
  });

test("drafts are compared per token, with fresh draws of thoughts that were fitted to prompt and draft", async (t) => {
  // In all, the short draft costs less.
  const { model, log } = fakeThought({
    write: (number, wanted) => (number === 10 ? [10, 1] : draft(number, wanted)),
    nats: (text) => (text.includes(10) ? 8 : 10),
  });
  const { ids } = await model.generate({ prompt, maxTokens: 6, drafts: 2, think: { steps: 3 } });
  t.deepEqual([...ids], draft(11, 6));
  const [prompts, whole] = log.fits.map(textsOf);
  t.deepEqual(prompts, [prompt, prompt]);
  t.deepEqual(whole, [
    [...prompt, 10, 1],
    [...prompt, ...draft(11, 6)],
  ]);
  t.true(log.fits.every(({ fit }) => fit.steps === 3));
  const [bound] = log.bounds;
  t.deepEqual(textsOf(bound!), whole);
  t.deepEqual([numbersOf(bound!.mean), bound!.count], [[-102, -103], 8]);
  const used = [...log.fits, ...log.bounds, ...log.continues].flatMap(({ seeds }) => [...seeds!]);
  t.is(new Set(used).size, used.length, "no two purposes share random numbers");
});

test("rounds: the next draft is written by the thought of prompt and draft; the first candidate is the text alone", async (t) => {
  const { model, log } = fakeThought();
  await model.generate({ prompt, maxTokens: 3, rounds: 2, drafts: 2, seed: 7 });
  t.deepEqual(log.fits.map(textsOf)[1], [
    [...prompt, ...draft(10)],
    [...prompt, ...draft(11)],
  ]);
  t.deepEqual(
    log.continues.map(({ z }) => numbersOf(z)),
    [
      [100, 101],
      [102, 103],
      [104, 105],
    ],
  );
  t.true(log.continues.every((request) => startsOf(request).every((ids) => ids.join() === [0, ...prompt].join())));
  const alone = fakeThought();
  await alone.model.generate({ prompt, maxTokens: 3, seed: 7 });
  t.is(alone.log.continues[0]!.seeds[0], log.continues[0]!.seeds[0]);
  t.is(alone.log.fits[0]!.seeds![0], log.fits[0]!.seeds![0]);
  t.deepEqual([alone.log.fits.length, alone.log.bounds.length], [1, 0]);
});

test("refitEvery: after so many new tokens the thought is fitted to the prompt and them", async (t) => {
  const { model, log } = fakeThought();
  const { ids } = await model.generate({ prompt, maxTokens: 7, refitEvery: 3 });
  t.deepEqual([...ids], [...draft(10), ...draft(11), 12]);
  const texts = [prompt, [...prompt, ...draft(10)], [...prompt, ...draft(10), ...draft(11)]];
  t.deepEqual(log.fits.flatMap(textsOf), texts);
  t.deepEqual(
    log.continues.flatMap(startsOf),
    texts.map((text) => [0, ...text]),
  );
  t.deepEqual(
    log.continues.map(({ tokens, z }) => [tokens, ...numbersOf(z)]),
    [
      [3, 100],
      [3, 101],
      [1, 102],
    ],
  );
  t.is(new Set(log.fits.flatMap(({ seeds }) => [...seeds!])).size, 3);
  t.is(new Set(log.continues.flatMap(({ seeds }) => [...seeds])).size, 1, "a token's draw is its position's");
});

test("refitEvery: a text that has ended is neither fitted nor continued", async (t) => {
  const { model, log } = fakeThought({ write: (number, wanted) => (number === 10 ? [10, 1] : draft(number, wanted)) });
  const results = await model.generateBatch({ prompts: [prompt, [7, 8]], maxTokens: 5, refitEvery: 3 });
  t.deepEqual(
    results.map(({ ids }) => [...ids]),
    [[10], [11, 11, 11, 12, 12]],
  );
  t.deepEqual(log.fits.map(textsOf), [[prompt, [7, 8]], [[7, 8, ...draft(11)]]]);
  t.deepEqual(log.continues.map(startsOf)[1], [[0, 7, 8, ...draft(11)]]);
  t.deepEqual(numbersOf(log.continues[1]!.z), [102]);
  await t.throwsAsync(model.generateBatch({ prompts: [prompt, [-1]] }), { message: /^prompts\[1\]\[0\]: expected/ });
});

test("a thought that is given guides the text; refits replace it", async (t) => {
  const { model, log } = fakeThought();
  const thought = model.imagine({ seed: 3 });
  await model.generate({ prompt, maxTokens: 3, thought });
  t.is(log.fits.length, 0);
  t.deepEqual(log.continues[0]!.z, thought.z);
  await model.generateBatch({ prompts: [prompt, [7, 8]], maxTokens: 6, refitEvery: 4, thought });
  const [, begun, refitted] = log.continues;
  t.deepEqual([...begun!.z], [...thought.z, ...thought.z]);
  t.deepEqual(numbersOf(refitted!.z), [100, 101]);
});

test("priorScale scales the draw that guides a text without a prompt, and nothing is fitted", async (t) => {
  const { model, log } = fakeThought();
  for (const priorScale of [1, 0.5, 0]) await model.generate({ maxTokens: 2, priorScale, seed: 4 });
  await model.generate({ maxTokens: 2, seed: 4 });
  const [whole, half, none, usual] = log.continues.map(({ z }) => Array.from(z));
  t.true(whole!.length === SIZE && whole!.every((value) => value !== 0));
  t.deepEqual(
    half,
    whole!.map((value) => value / 2),
  );
  t.true(none!.every((value) => value === 0));
  t.deepEqual(usual, whole);
  t.is(log.fits.length, 0);
});

test("usage counts every forward pass that looked at a text: of fits, tokens and bounds, whatever was chosen", async (t) => {
  const { model } = fakeThought({
    write: (number, wanted) => (number % 2 === 0 ? [number, 1] : draft(number, wanted)),
  });
  // Every other draft ends after two tokens.
  const passes = async (options: object) =>
    (await model.generate({ prompt, maxTokens: 5, think: { steps: 3 }, ...options })).usage.forwards;
  const fit = 3 + 1;
  t.is(await passes({}), fit + 2);
  t.is(await passes({}), fit + 5);
  t.is(await passes({ prompt: [] }), 2);
  t.is(await passes({ thought: model.imagine(), think: undefined }), 5);
  // Two candidates, of 2 and 5 tokens, in two rounds.
  t.is(await passes({ drafts: 2, rounds: 1 }), 2 * fit + 2 * (2 + 5 + 2 * (fit + 8)));
  t.is(await passes({ refitEvery: 2 }), fit + 2);
  t.is(await passes({ refitEvery: 2 }), fit + 2 + fit + 2);
  t.is(await passes({ maxTokens: 0 }), 0);
  const own = await model.generateBatch({ prompts: [prompt, prompt], maxTokens: 5, think: { steps: 3 } });
  t.deepEqual(
    own.map(({ usage }) => usage.forwards),
    [fit + 5, fit + 2],
  );
});

test("between: means and log-variances in proportion, the draw along the circle", (t) => {
  const { model } = fakeThought();
  const { sizes } = model.imagine().parts;
  const thoughtOf = (mean: number[], logVariance: number[], z: number[]) =>
    new Thought({
      ...{ sizes, tokens: 3, steps: 2, curve: { crossEntropy: [1], kl: [1] } },
      ...{ mean: Float32Array.from(mean), logVariance: Float32Array.from(logVariance), z: Float32Array.from(z) },
    });
  const from = thoughtOf([1, 2, 3, 4], [-1, -2, -3, -4], [2, 0, 0, 0]);
  const to = thoughtOf([5, 2, -1, 0], [-1, 0, 1, 4], [0, 4, 0, 0]);
  const near = model.between(from, to, 0.25);
  t.deepEqual([...near.mean], [2, 2, 2, 3]);
  t.deepEqual([...near.logVariance], [-1, -1.5, -2, -2]);
  // A quarter of the way to a right angle.
  const expected = [2.5 * Math.cos(Math.PI / 8), 2.5 * Math.sin(Math.PI / 8), 0, 0];
  t.true(near.z.every((value, i) => Math.abs(value - expected[i]!) < 1e-6));
  for (const [share, end] of [[0, from] as const, [1, to] as const]) {
    const { mean, logVariance, z } = model.between(from, to, share);
    t.deepEqual([mean, logVariance], [end.mean, end.logVariance]);
    t.true(z.every((value, i) => Math.abs(value - end.z[i]!) < 1e-6));
  }
});
