import test from "ava";
import { type ChainScorer, nextTokens, windowLikelihoods } from "../../../lib/evaluation/likelihood.js";
import type { LossRequest } from "../../../lib/native/addon.js";

const BOS = 9;

test("every token of a window has a position that predicts it, the first one the begin token's", (t) => {
  const { ids, targets, batch } = nextTokens(Int32Array.of(1, 2, 3, 4, 5, 6), 3, BOS);
  t.deepEqual([...ids], [BOS, 1, 2, BOS, 4, 5]);
  t.deepEqual([...targets], [1, 2, 3, 4, 5, 6]);
  t.is(batch, 2);
});

/** A token costs as many nats as its id says. */
class Priced implements ChainScorer {
  readonly bosId = BOS;
  readonly calls: LossRequest[] = [];

  losses = async (request: LossRequest) => {
    this.calls.push(request);
    return Float32Array.from(request.targets, (id) => Math.max(0, id));
  };
}

test("windows of any length share calls; contexts and what fills a call up are not scored", async (t) => {
  const windows = [
    { index: 0, ids: Int32Array.of(1, 2, 3) },
    { index: 1, ids: Int32Array.of(4, 5), context: 1 },
    { index: 2, ids: Int32Array.of(6, 7, 8) },
  ];
  for (const [callTokens, calls] of [
    [9, 1],
    [6, 2],
    [1, 3],
  ] as const) {
    const scorer = new Priced();
    const found: object[] = [];
    for await (const window of windowLikelihoods(scorer, windows, { callTokens })) found.push(window);
    t.is(scorer.calls.length, calls);
    t.deepEqual(found, [
      { index: 0, tokens: 3, nats: 6, variance: 0 },
      { index: 1, tokens: 1, nats: 5, variance: 0 },
      { index: 2, tokens: 3, nats: 21, variance: 0 },
    ]);
  }
});

test("a signal stops it between calls", async (t) => {
  const controller = new AbortController();
  const windows = [0, 1, 2].map((index) => ({ index, ids: Int32Array.of(1, 2) }));
  const seen: number[] = [];
  const running = async () => {
    const options = { callTokens: 2, signal: controller.signal };
    for await (const { index } of windowLikelihoods(new Priced(), windows, options)) {
      seen.push(index);
      controller.abort(new Error("enough"));
    }
  };
  await t.throwsAsync(running(), { message: "enough" });
  t.deepEqual(seen, [0]);
});
