import test from "ava";
import { type BoundOptions, type Scorer, type Window, windowBounds } from "../../../lib/evaluation/bound.js";
import { BoundTotals } from "../../../lib/evaluation/statistics.js";
import type { LossRequest } from "../../../lib/native/addon.js";

const MASK = 50;

/** Every hidden token costs what its neighbourhood leaves open: 1 + the share of hidden positions, plus id / 100. */
class FakeScorer implements Scorer {
  readonly maskId = MASK;
  readonly calls: LossRequest[] = [];

  losses(request: LossRequest): Promise<Float32Array> {
    this.calls.push(request);
    const { ids, targets, batch, length } = request;
    const out = new Float32Array(ids.length);
    for (let b = 0; b < batch; b++) {
      const end = request.keyEnd?.[b] ?? length;
      let hidden = 0;
      for (let i = 0; i < end; i++) hidden += Number(ids[b * length + i] === MASK);
      for (let i = b * length; i < (b + 1) * length; i++)
        if (targets[i]! >= 0) out[i] = 1 + hidden / end + targets[i]! / 100;
    }
    return Promise.resolve(out);
  }
}

const windows = (...lengths: number[]): Window[] =>
  lengths.map((length, index) => ({ index, ids: Int32Array.from({ length }, (_, i) => (i * 7 + index) % 40) }));

async function run(input: Window[], options: BoundOptions, scorer = new FakeScorer()) {
  const out = [];
  for await (const bound of windowBounds(scorer, input, options)) out.push(bound);
  return out;
}

test("both forms estimate the same bound", async (t) => {
  // The mean over p of (1 + p) is 1.5 plus the mean id cost; 1 / T more than 1.5 / 2 T for counts, which start at 1.
  const window = windows(60);
  const idCost = window[0]!.ids.reduce((sum, id) => sum + id / 100, 0) / 60;
  for (const form of ["stratified", "fixed-count"] as const) {
    const [bound] = await run(window, { form, draws: 4000 });
    t.true(Math.abs(bound!.nats / 60 - 1.5 - idCost) < 0.03, `${form}: ${bound!.nats / 60} versus ${1.5 + idCost}`);
    t.is(bound!.tokens, 60);
  }
});

test("fixed counts vary less than stratified times on short texts", async (t) => {
  const variance = async (form: "stratified" | "fixed-count") =>
    (await run(windows(12), { form, draws: 2000 }))[0]!.variance;
  t.true((await variance("fixed-count")) < 0.5 * (await variance("stratified")));
});

test("estimates do not depend on how rows are batched", async (t) => {
  const input = windows(5, 30, 1, 17, 30, 30);
  const together = await run(input, { draws: 3, callTokens: 100_000 });
  t.deepEqual(await run(input, { draws: 3, callTokens: 1 }), together);
  t.deepEqual(await run(input, { draws: 3, callTokens: 70 }), together);
  t.deepEqual(await run(input.slice(2, 3), { draws: 3 }), together.slice(2, 3));
  t.deepEqual(
    together.map((bound) => bound.tokens),
    [5, 30, 1, 17, 30, 30],
  );
});

test("calls are bounded, and padded rows say where their text ends", async (t) => {
  const scorer = new FakeScorer();
  await run(windows(5, 30, 17), { draws: 4, callTokens: 64 }, scorer);
  for (const call of scorer.calls) {
    t.true(call.batch === 1 || call.batch * call.length <= 64);
    t.is(call.excludedId, MASK);
    if (call.keyEnd) t.true(call.keyEnd.every((end) => end <= call.length));
    for (let i = 0; i < call.targets.length; i++) if (call.targets[i]! >= 0) t.is(call.ids[i], MASK);
  }
});

test("the context is never hidden", async (t) => {
  const scorer = new FakeScorer();
  const [bound] = await run(
    windows(20).map((window) => ({ ...window, context: 15 })),
    { draws: 50 },
    scorer,
  );
  t.is(bound!.tokens, 5);
  for (const call of scorer.calls)
    for (let i = 0; i < call.targets.length; i++) if (i % call.length < 15) t.is(call.targets[i], -1);
});

test("a signal stops between calls with its reason", async (t) => {
  const controller = new AbortController();
  const scorer = new FakeScorer();
  const reason = new Error("enough");
  const bounds = windowBounds(scorer, windows(30, 30, 30), { draws: 2, callTokens: 30, signal: controller.signal });
  await bounds.next();
  controller.abort(reason);
  t.is(await t.throwsAsync(() => bounds.next()), reason);
});

test("totals: ratio estimator and its error against the plain mean when lengths agree", (t) => {
  const totals = new BoundTotals();
  const values = [10, 12, 17, 9, 14];
  for (const [index, nats] of values.entries()) totals.add({ index, nats, tokens: 4, variance: 0.5 });
  const { bound, standardError, drawError, tokens, sequences } = totals.summary(2);
  const mean = values.reduce((a, b) => a + b) / 5;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 4 / 5;
  t.is(bound, mean / 4);
  t.true(Math.abs(standardError - Math.sqrt(variance) / 4) < 1e-12);
  t.true(Math.abs(drawError - Math.sqrt(2.5) / 20) < 1e-12);
  t.is(tokens, 20);
  t.is(sequences, 5);
});

test("one sequence has no error over sequences; a NaN loss is refused", (t) => {
  const totals = new BoundTotals();
  totals.add({ index: 0, nats: 3, tokens: 2, variance: 0 });
  t.true(Number.isNaN(totals.summary(1).standardError));
  t.throws(() => totals.add({ index: 1, nats: Number.NaN, tokens: 2, variance: 0 }), { code: "ERR_NON_FINITE" });
});

test("draws must be a count", async (t) => {
  await t.throwsAsync(() => run(windows(3), { draws: 0 }), { code: "ERR_INVALID_ARGUMENT", message: /draws is 0/ });
});
