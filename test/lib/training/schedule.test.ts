import test from "ava";
import { learningRate, type Schedule } from "../../../lib/training/schedule.js";

const schedule: Schedule = { shape: "cosine", peak: 2, warmup: 10, steps: 110, floor: 0.1, decay: 20 };
const rate = (shape: Schedule["shape"], step: number) => learningRate({ ...schedule, shape }, step);

test("the warm-up is linear and ends at the peak", (t) => {
  t.is(rate("cosine", 1), 0.2);
  t.is(rate("cosine", 5), 1);
  t.is(rate("cosine", 10), 2);
});

test("cosine: half-way in the middle, the floor at the end and after", (t) => {
  t.true(Math.abs(rate("cosine", 60) - 1.1) < 1e-12);
  t.true(Math.abs(rate("cosine", 110) - 0.2) < 1e-12);
  t.true(Math.abs(rate("cosine", 500) - 0.2) < 1e-12);
});

test("linear, stable and constant", (t) => {
  t.true(Math.abs(rate("linear", 60) - 1.1) < 1e-12);
  t.is(rate("stable", 90), 2);
  t.true(Math.abs(rate("stable", 100) - 1.1) < 1e-12);
  t.true(Math.abs(rate("stable", 110) - 0.2) < 1e-12);
  t.is(rate("constant", 110), 2);
});

test("never rises after the warm-up", (t) => {
  for (const shape of ["cosine", "linear", "stable", "constant"] as const)
    for (let step = 10; step < 120; step++) t.true(rate(shape, step + 1) <= rate(shape, step) + 1e-12);
});

test("edge lengths stay finite", (t) => {
  for (const edge of [
    { warmup: 0, steps: 1 },
    { warmup: 5, steps: 5 },
    { warmup: 9, steps: 5 },
  ])
    for (let step = 1; step < 12; step++) t.true(Number.isFinite(learningRate({ ...schedule, ...edge }, step)));
});
