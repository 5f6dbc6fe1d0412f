import test from "ava";
import {
  type CleanRows,
  type CorruptionOptions,
  corrupt,
  maskProbabilities,
} from "../../../lib/training/masked/corruption.js";

const MASK = 99;
const options: CorruptionOptions = { seed: 7, maskId: MASK };

function rows(count: number, length: number, more: Partial<CleanRows> = {}): CleanRows {
  const ids = Int32Array.from({ length: count * length }, (_, i) => i % 90);
  return { ids, length, firstRow: 0, totalRows: count, ...more };
}

test("low-variance times cover [epsilon, 1] evenly in every batch", (t) => {
  for (const step of [0, 1, 77, 4_000_000_000]) {
    const probabilities = maskProbabilities(options, step, 16);
    const strata = [...probabilities].map((p) => Math.floor(((p - 1e-3) / (1 - 1e-3)) * 16));
    t.deepEqual(
      strata,
      Array.from({ length: 16 }, (_, i) => i),
    );
  }
});

test("independent times are uniform over [epsilon, 1]", (t) => {
  const all = maskProbabilities({ ...options, times: "independent" }, 3, 20_000);
  const mean = all.reduce((sum, p) => sum + p, 0) / all.length;
  t.true(Math.abs(mean - 0.5005) < 0.007, `mean ${mean}`);
  t.true(all.every((p) => p > 1e-3 && p < 1));
});

test("hidden tokens are the targets, all else is untouched, weights are 1 / p / (B T)", (t) => {
  const clean = rows(8, 64);
  const { ids, targets, weights, probabilities, hidden } = corrupt(clean, 5, options);
  let count = 0;
  for (let i = 0; i < ids.length; i++) {
    const isHidden = targets[i] !== -1;
    count += Number(isHidden);
    t.is(ids[i], isHidden ? MASK : clean.ids[i]!);
    t.is(targets[i], isHidden ? clean.ids[i]! : -1);
    t.is(weights[i], isHidden ? Math.fround(1 / probabilities[Math.floor(i / 64)]! / (8 * 64)) : 0);
  }
  t.is(hidden, count);
});

test("a token is hidden with its row's probability", (t) => {
  let hidden = 0;
  let expected = 0;
  for (let step = 0; step < 200; step++) {
    const result = corrupt(rows(4, 128), step, options);
    hidden += result.hidden;
    expected += result.probabilities.reduce((sum, p) => sum + p * 128, 0);
  }
  // Standard deviation of the difference: sqrt(200 * 4 * 128 * E[p (1 - p)]) = 131.
  t.true(Math.abs(hidden - expected) < 4 * 131, `${hidden} hidden, ${expected} expected`);
});

test("the objective is unbiased: a constant loss of 1 per token gives 1 on average", (t) => {
  let total = 0;
  for (let step = 0; step < 2000; step++)
    total += corrupt(rows(4, 32), step, options).weights.reduce((a, b) => a + b, 0);
  t.true(Math.abs(total / 2000 - 1) < 0.03, `${total / 2000}`);
});

test("a pure function of seed and step, however the batch is cut", (t) => {
  const whole = corrupt(rows(6, 20), 12, options);
  t.deepEqual(corrupt(rows(6, 20), 12, options), whole);
  t.notDeepEqual(corrupt(rows(6, 20), 13, options).targets, whole.targets);
  t.notDeepEqual(corrupt(rows(6, 20), 12, { ...options, seed: 8 }).targets, whole.targets);
  const clean = rows(6, 20);
  for (const [first, count] of [
    [0, 2],
    [2, 1],
    [3, 3],
  ] as const) {
    const part = { ...clean, ids: clean.ids.slice(first * 20, (first + count) * 20), firstRow: first };
    const cut = corrupt(part, 12, options);
    t.deepEqual(cut.targets, whole.targets.slice(first * 20, (first + count) * 20));
    t.deepEqual(cut.weights, whole.weights.slice(first * 20, (first + count) * 20));
  }
});

test("pads are never hidden", (t) => {
  const starts = Int32Array.of(0, 5, 20);
  const ends = Int32Array.of(20, 15, 20);
  for (let step = 0; step < 50; step++) {
    const { targets } = corrupt(rows(3, 20, { starts, ends }), step, options);
    for (let i = 0; i < 60; i++) {
      const inside = i % 20 >= starts[Math.floor(i / 20)]! && i % 20 < ends[Math.floor(i / 20)]!;
      if (!inside) t.is(targets[i], -1);
    }
  }
});

test("a prompt is never hidden, and its answer weighs 1 / (B answer length)", (t) => {
  const promptLengths = Int32Array.of(12, 0, 20);
  let total = 0;
  for (let step = 0; step < 2000; step++) {
    const { targets, weights } = corrupt(rows(3, 20, { promptLengths }), step, options);
    if (targets.some((target, i) => target !== -1 && i % 20 < promptLengths[Math.floor(i / 20)]!))
      t.fail("prompt hidden");
    total += weights.reduce((a, b) => a + b, 0);
  }
  // Two of three rows have an answer: a constant loss of 1 averages 2/3.
  t.true(Math.abs(total / 2000 - 2 / 3) < 0.05, `${total / 2000}`);
});

test("an answer's draws do not depend on its prompt's length", (t) => {
  const free = corrupt(rows(1, 40), 3, options);
  const guarded = corrupt(rows(1, 40, { promptLengths: Int32Array.of(10) }), 3, options);
  t.deepEqual(guarded.targets.slice(10), free.targets.slice(10));
});

test("wrong shapes are refused by name", (t) => {
  t.throws(() => corrupt({ ...rows(2, 8), length: 7 }, 0, options), { message: /16 ids.*7/ });
  t.throws(() => corrupt({ ...rows(2, 8), firstRow: 1 }, 0, options), { message: /rows 1\.\.3 .* batch of 2/ });
  t.throws(() => corrupt(rows(2, 8, { ends: Int32Array.of(9, 1) }), 0, options), {
    message: /ends must lie in 0\.\.8/,
  });
  t.throws(() => corrupt(rows(2, 8, { promptLengths: Int32Array.of(1) }), 0, options), {
    message: /promptLengths has 1/,
  });
});
