import { writeFile } from "node:fs/promises";
import test from "ava";
import fc from "fast-check";
import { createEngine } from "../../../lib/index.js";
import { drawCut, reject, rejectionLoss, SHORTEST_REJECTED } from "../../../lib/training/masked/rejection.js";
import { resolveOptions } from "../../../lib/training/options.js";
import { collect, fixture, outcomeOf, trained } from "./tiny-run.js";

const MASK = 99;
const text = Int32Array.from({ length: 20 }, (_, i) => i);

/** Draws that were laid down. */
function given(values: number[], left = true) {
  return { draw: () => values.shift()!, takesLeft: () => left, phraseLimit: 15 };
}

test("inside: a phrase of the text before or behind, over and over", (t) => {
  const cut = { inside: true, left: 8, right: 13 };
  const before = reject(text, cut, MASK, given([3]));
  t.deepEqual([...before.ids.slice(6, 15)], [6, 7, MASK, MASK, MASK, MASK, MASK, 13, 14]);
  t.deepEqual([...before.winners.slice(7, 14)], [-1, 8, 9, 10, 11, 12, -1]);
  t.deepEqual([...before.losers.slice(7, 14)], [-1, 7, 5, 6, 7, 5, -1]);
  t.is(before.hidden, 5);
  const behind = reject(text, cut, MASK, given([2], false));
  t.deepEqual([...behind.losers.slice(8, 13)], [13, 14, 13, 14, 13]);
});

test("outside: what is kept, its beginning to the left, its end to the right; both ends of the text do not count", (t) => {
  const { ids, losers, winners, hidden } = reject(
    text,
    { inside: false, left: 6, right: 11 },
    MASK,
    given([2, 1, 3, 0]),
  );
  t.deepEqual([...ids.slice(5, 12)], [MASK, 6, 7, 8, 9, 10, MASK]);
  t.deepEqual([...losers.slice(0, 6)], [-1, 6, 7, 6, 7, 6]);
  t.deepEqual([...losers.slice(11)], [10, 8, 9, 10, 8, 9, 10, 8, -1]);
  t.is(winners[0], 0);
  t.is(hidden, 15);
});

test("cuts keep away from the ends, and every rule has something to repeat", (t) => {
  const runs = fc.record({
    length: fc.integer({ min: SHORTEST_REJECTED, max: 60 }),
    draws: fc.array(fc.double({ min: 0, max: 0.999999, noNaN: true }), { minLength: 8, maxLength: 8 }),
    left: fc.boolean(),
  });
  fc.assert(
    fc.property(runs, ({ length, draws, left }) => {
      const draw = (low: number, high: number): number => low + Math.floor(draws.shift()! * (high - low));
      const cut = drawCut(length, draw);
      t.true(cut.left >= 5 && cut.left < cut.right && cut.right < length - 5 + 1);
      const own = Int32Array.from({ length }, (_, i) => i);
      const { losers, winners, ids } = reject(own, cut, MASK, { draw, takesLeft: () => left, phraseLimit: 15 });
      for (let at = 0; at < length; at++) {
        t.is(winners[at]! >= 0, ids[at] === MASK);
        if (winners[at]! < 0) t.is(losers[at], -1);
        else if (at > 0 && at < length - 1) t.true(losers[at]! >= 0 && ids[losers[at]!] !== MASK);
      }
    }),
  );
});

test("the loss, and how it changes", (t) => {
  const weights = { betaW: 1.5, betaL: 0.5, betaA: 0.1, gamma: 0.3 };
  const at = (W: number, L: number) => rejectionLoss(W, L, weights).loss;
  t.true(Math.abs(at(-1, -2) - (Math.log(1 + Math.exp(0.8)) + 0.1)) < 1e-12);
  const { byW, byL } = rejectionLoss(-1, -2, weights);
  t.true(Math.abs((at(-1 + 1e-5, -2) - at(-1 - 1e-5, -2)) / 2e-5 - byW) < 1e-8);
  t.true(Math.abs((at(-1, -2 + 1e-5) - at(-1, -2 - 1e-5)) / 2e-5 - byL) < 1e-8);
  t.true(Number.isFinite(at(-2000, -1)));
});

test("fine-tuning: the margin grows, a resumed run has the same bits; micro-batches change nothing but rounding", async (t) => {
  const learn = {
    steps: 60,
    batch: 8,
    microBatch: 8,
    length: 24,
    rate: 0.01,
    warmup: 4,
    evaluateEvery: 60,
    saveEvery: 30,
  };
  const { options, folder } = await fixture({ ...learn, shape: { hidden: 32, heads: 2, layers: 2 } });
  // Text that never repeats itself within a window.
  await writeFile(`${folder}/a.txt`, "abcdefghijklmnopqrstuvwxyz0123456789".repeat(60));
  const corpus = [`${folder}/a.txt`];
  await trained({ ...options, corpus });
  const { tokenizer: _, shape: __, ...rest } = options;
  const tune = { objective: "r2ft" as const, rate: 0.01, steps: 120, saveEvery: 40, evaluateEvery: 120 };
  const tuning = { ...rest, corpus, init: options.run, ...tune };
  const events = await trained({ ...tuning, run: `${folder}/tuned` });
  const losses = events.flatMap((event) => (event.type === "step" ? [event.loss] : []));
  t.is(losses.length, 120);
  const mean = (some: number[]): number => some.reduce((a, b) => a + b, 0) / some.length;
  t.true(mean(losses.slice(-20)) < 0.85 * mean(losses.slice(0, 10)), losses.join(" "));
  await trained({ ...tuning, run: `${folder}/cut`, stopAt: 53 }, { threads: 2 });
  await trained({ ...tuning, run: `${folder}/cut` }, { threads: 2 });
  t.deepEqual(await outcomeOf(`${folder}/cut`), await outcomeOf(`${folder}/tuned`));
  const small = await trained({ ...tuning, run: `${folder}/small`, steps: 1, microBatch: 3 });
  const first = small.find((event) => event.type === "step");
  t.true(first?.type === "step" && Math.abs(first.loss - losses[0]!) < 1e-3);
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(`${folder}/tuned`, { family: "masked" });
  t.is(typeof (await model.generate({ prompt: "abc", maxTokens: 8 })).text, "string");
});

test("what cannot be fine-tuned so is refused", async (t) => {
  const { options } = await fixture();
  const refused = (changes: object, message: RegExp) =>
    t.throws(() => resolveOptions({ ...options, ...changes }), { code: "ERR_INVALID_ARGUMENT", message });
  refused({ objective: "r2ft" }, /objective is "r2ft", expected "nelbo", or init/);
  const { tokenizer: _, shape: __, ...rest } = options;
  refused({ ...rest, shape: undefined, objective: "r2ft", init: "m", family: "thought" }, /only masked models/);
  t.throws(() => resolveOptions({ ...options, objective: "r2ff" as "r2ft" }), { code: "ERR_UNKNOWN_OPTION" });
  refused({ phraseLimit: 1 }, /phraseLimit/);
  await t.throwsAsync(
    collect({ ...rest, run: `${options.run}-short`, init: await trainedModel(), objective: "r2ft" }),
    {
      code: "ERR_INVALID_ARGUMENT",
      message: /length is 8, expected at least 12/,
    },
  );
});

async function trainedModel(): Promise<string> {
  const { options } = await fixture({ steps: 1, evaluateEvery: 1 });
  await trained(options);
  return options.run;
}
