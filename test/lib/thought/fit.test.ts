import test from "ava";
import type { Inference } from "../../../lib/checkpoint/config.js";
import { fitSettings, paced } from "../../../lib/posterior/fit.js";

const inference: Inference = {
  ...{ steps: 16, learningRate: [0.3, 0.34], schedule: "linear", logVarianceInit: -4 },
  ...{ noise: "resample", constantLogVariance: false },
};

test("fewer steps start nearer, a few more are smaller, many settle", (t) => {
  t.deepEqual(paced(inference, 16), inference);
  t.like(paced(inference, 4), { steps: 4, schedule: "linear", learningRate: [0.3, 0.34], logVarianceInit: -1 });
  t.like(paced(inference, 0), { steps: 0, logVarianceInit: -0 });
  t.like(paced(inference, 32), { steps: 32, schedule: "linear", learningRate: [0.15, 0.17], logVarianceInit: -4 });
  t.like(paced(inference, 40), { steps: 40, schedule: "cosine", learningRate: [0.34, 0.34], logVarianceInit: -4 });
  t.like(paced({ ...inference, schedule: "constant" }, 64), { schedule: "cosine", learningRate: [0.3, 0.3] });
  const cosine = { ...inference, schedule: "cosine" as const };
  t.like(paced(cosine, 20), { steps: 20, schedule: "cosine", learningRate: [0.3, 0.34], logVarianceInit: -4 });
});

test("steps alone are paced; whoever says how they go is taken at his word", (t) => {
  t.like(fitSettings({ steps: 4 }, { inference }), { steps: 4, firstRate: 0.3, logVarianceInit: -1 });
  t.like(fitSettings({ steps: 4, rate: 0.1 }, { inference }), { steps: 4, firstRate: 0.1, logVarianceInit: -4 });
  t.like(fitSettings({ steps: 64, schedule: "linear" }, { inference }), { schedule: "linear", lastRate: 0.34 });
  t.like(fitSettings({ steps: 4, constantLogVariance: true }, { inference }), { logVarianceInit: -4 });
  t.like(fitSettings({ noise: "shared" }, { inference }), { steps: 16, noise: "shared", logVarianceInit: -4 });
  t.throws(() => fitSettings({ steps: 1.5 }, { inference }), { message: /think.steps/ });
});
