import test from "ava";
import type { EstimateOptions, Window, WindowBound } from "../../../lib/evaluation/bound.js";
import { type ThoughtScorer, thoughtBounds } from "../../../lib/evaluation/thought-bound.js";
import type { BoundRequest, FitRequest, NativeFit } from "../../../lib/native/addon.js";

const BOS = 9;
const KL = 2;

/** What a sequence's scored targets cost: as many nats as their ids say. */
const prices = ({ targets, batch, length }: BoundRequest | FitRequest): number[] =>
  Array.from({ length: batch }, (_, b) =>
    targets!.subarray(b * length, (b + 1) * length).reduce((sum, id) => sum + Math.max(0, id), 0),
  );

/** Every draw costs a nat more than the one before; the draw of a fit, half. */
class Priced implements ThoughtScorer {
  readonly bosId = BOS;
  readonly fits: FitRequest[] = [];
  readonly bounds: BoundRequest[] = [];

  constructor(readonly settings: NativeFit = { ...loop, noise: "resample" }) {}

  async fit(request: FitRequest) {
    this.fits.push(request);
    const own = Float32Array.from(prices(request));
    const none = new Float32Array(own.length);
    const latents = { mean: none, logVariance: none, z: none };
    const [crossEntropy, kl] = [
      [own, own.map((nats) => nats / 2)],
      [none, none.map(() => KL / 2)],
    ];
    return { ...latents, steps: Int32Array.from(own, () => request.fit.steps), crossEntropy, kl };
  }

  async bound(request: BoundRequest) {
    this.bounds.push(request);
    const own = prices(request);
    const crossEntropy = Array.from({ length: request.count }, (_, k) => own.map((nats) => nats + k)).flat();
    const kl = Float32Array.from(own, () => KL);
    const each = Float64Array.from(own);
    const unused = { logWeight: new Float32Array(), nelbo: each, nelboSampled: each };
    return { crossEntropy: Float32Array.from(crossEntropy), kl, iwae: each, ...unused };
  }
}

const loop = { steps: 5, firstRate: 0.3, lastRate: 0.3, schedule: "constant", logVarianceInit: -5 } as const;
const windows: Window[] = [
  { index: 0, ids: Int32Array.of(1, 2, 3, 4) },
  { index: 1, ids: Int32Array.of(5, 6, 7) },
];

async function bounds(scorer: ThoughtScorer, given: Window[], options: EstimateOptions = {}): Promise<WindowBound[]> {
  const found: WindowBound[] = [];
  for await (const bound of thoughtBounds(scorer, given, { draws: 3, ...options })) found.push(bound);
  return found;
}

test("a window's bound: mean cross-entropy of the draws, and the KL divergence; their spread is its error", async (t) => {
  const found = await bounds(new Priced(), windows);
  t.like(found, [
    { index: 0, tokens: 4, nats: 10 + 1 + KL, thought: { crossEntropy: 11, kl: KL, steps: 5 } },
    { index: 1, tokens: 3, nats: 18 + 1 + KL, thought: { crossEntropy: 19, kl: KL, steps: 5 } },
  ]);
  t.true(found.every(({ variance, thought }) => variance === 1 / 3 && !("sameNoise" in thought!)));
});

test("a context alone is fitted, the rest alone is scored, and pays no divergence", async (t) => {
  const scorer = new Priced();
  const found = await bounds(scorer, [{ ...windows[0]!, context: 2 }, windows[1]!]);
  t.is(scorer.fits.length, 1);
  const [fit, bound] = [scorer.fits[0]!, scorer.bounds[0]!];
  t.deepEqual([...fit.ids], [BOS, 1, 2, BOS, 5, 6], "nothing after the context is there to be seen");
  t.deepEqual([...fit.targets!], [1, 2, -1, 5, 6, 7]);
  t.deepEqual([...bound.targets!], [-1, -1, 3, 4, 5, 6, 7, -1]);
  t.like(found[0], { tokens: 2, nats: 7 + 1, thought: { crossEntropy: 8, kl: 0 } });
  // -log of the mean of e^-7, e^-8, e^-9.
  const mixture = 7 - Math.log((1 + Math.exp(-1) + Math.exp(-2)) / 3);
  t.true(Math.abs(found[0]!.importanceWeighted! - mixture) < 1e-9);
  t.is(found[1]!.nats, 18 + 1 + KL);
});

test("same noise: a fit of its own under shared noise, of the same seeds, scored by its own draw", async (t) => {
  const scorer = new Priced();
  const found = await bounds(scorer, windows, { sameNoise: true });
  t.deepEqual(
    scorer.fits.map(({ fit }) => [fit.noise, fit.score]),
    [
      ["resample", false],
      ["shared", true],
    ],
  );
  t.deepEqual(scorer.fits[1]!.seeds, scorer.fits[0]!.seeds);
  t.deepEqual(
    found.map(({ thought }) => thought!.sameNoise),
    [10 / 2 + KL / 2, 18 / 2 + KL / 2],
  );
  const without = await bounds(new Priced(), windows);
  t.deepEqual(
    found.map(({ nats }) => nats),
    without.map(({ nats }) => nats),
  );
  const shared = new Priced({ ...loop, noise: "shared" });
  t.is((await bounds(shared, windows, { sameNoise: true }))[0]!.thought!.sameNoise, 6);
  t.is(shared.fits.length, 1, "the fit is under shared noise as it is");
});
