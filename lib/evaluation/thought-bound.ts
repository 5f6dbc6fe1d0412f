/**
 * The thought family's bounds on -log p(x) (ltm.md section 3.5). Every window's posterior is fitted to the window by the fast loop; then
 * fresh draws, which the fit has not seen, give the bound: their mean cross-entropy plus the KL divergence from the prior. Weighted by
 * importance, -log of the mean of p(x,z) / q(z), they give a tighter one.
 *
 * With a context, the posterior is fitted to the context alone, and the rest is scored given it: the mean over draws of -log p(rest |
 * context, z) bounds the loss of the predictor that averages over the posterior, and -log of the mean likelihood is that predictor's, in expectation from above.
 *
 * Draws are a function of (seed, window): the estimate does not depend on how windows are batched.
 */

import type { BoundRequest, BoundResult, FitRequest, FitResult, NativeFit } from "../native/addon.js";
import { Rng, RngStream, type Seed } from "../rng.js";
import { type BoundOptions, checkBound, sum, type Window, type WindowBound } from "./bound.js";
import { inCalls, windowBatch } from "./likelihood.js";

export interface ThoughtScorer {
  fit(request: FitRequest): Promise<FitResult>;
  bound(request: BoundRequest): Promise<BoundResult>;
  readonly bosId: number;
  readonly settings: NativeFit;
  /** Sees what every window's bound is made of. */
  observe?(parts: BoundParts): void;
}

/** In nats, of a window. */
export interface BoundParts {
  tokens: number;
  /** Mean over the fresh draws. */
  crossEntropy: number;
  /** 0 where a context was fitted: the rest does not pay for it. */
  kl: number;
}

export async function* thoughtBounds(
  scorer: ThoughtScorer,
  windows: Iterable<Window> | AsyncIterable<Window>,
  options: BoundOptions = {},
): AsyncGenerator<WindowBound> {
  const { callTokens, signal, seed, draws } = checkBound(options);
  for await (const some of inCalls(windows, callTokens)) {
    signal?.throwIfAborted();
    yield* await boundsOf(scorer, some, { seed, draws });
  }
}

async function boundsOf(
  scorer: ThoughtScorer,
  windows: readonly Window[],
  { seed, draws }: { seed: Seed; draws: number },
): Promise<WindowBound[]> {
  const { bosId, settings } = scorer;
  const whole = windowBatch(windows, bosId);
  const fitted = await scorer.fit({
    ...whole,
    targets: fitTargets(windows, whole.length, whole.targets),
    seeds: seedsOf(seed, windows, FIT),
    fit: settings,
  });
  const { mean, logVariance } = fitted;
  const bounds = await scorer.bound({ ...whole, mean, logVariance, count: draws, seeds: seedsOf(seed, windows, DRAW) });
  return windows.map((window, b) => {
    const estimate = estimateOf(window, bounds, b);
    const { crossEntropy, kl } = partsOf(window, bounds, b);
    scorer.observe?.({ tokens: estimate.tokens, crossEntropy, kl });
    return estimate;
  });
}

/** A context is what is fitted, where there is one. */
function fitTargets(windows: readonly Window[], length: number, targets: Int32Array): Int32Array {
  if (windows.every(({ context = 0 }) => context === 0)) return targets;
  const own = targets.slice();
  for (const [b, { ids, context = 0 }] of windows.entries()) {
    if (context === 0) continue;
    own.fill(-1, b * length, (b + 1) * length);
    own.set(ids.subarray(0, context), b * length);
  }
  return own;
}

/** Of the window at b: the draws' cross-entropies, their mean, and the KL divergence that it pays. */
function partsOf({ context = 0 }: Window, { crossEntropy, kl }: BoundResult, b: number) {
  const batch = kl.length;
  const draws = Array.from({ length: crossEntropy.length / batch }, (_, k) => crossEntropy[k * batch + b]!);
  return { draws, crossEntropy: sum(draws) / draws.length, kl: context === 0 ? kl[b]! : 0 };
}

function estimateOf(window: Window, bounds: BoundResult, b: number): WindowBound {
  const { index, ids, context = 0 } = window;
  const { draws, crossEntropy, kl } = partsOf(window, bounds, b);
  const spread = sum(draws.map((nats) => (nats - crossEntropy) ** 2));
  const variance = draws.length > 1 ? spread / (draws.length - 1) / draws.length : 0;
  const importanceWeighted = context === 0 ? bounds.iwae[b]! : -logMeanExp(draws.map((nats) => -nats));
  return { index, tokens: ids.length - context, nats: crossEntropy + kl, variance, importanceWeighted };
}

function logMeanExp(values: readonly number[]): number {
  const most = Math.max(...values);
  return most + Math.log(sum(values.map((value) => Math.exp(value - most))) / values.length);
}

/** Two purposes never share draws. */
const FIT = 0;
const DRAW = 1;

function seedsOf(seed: Seed, windows: readonly Window[], purpose: number): BigUint64Array {
  const rng = new Rng(seed);
  return BigUint64Array.from(windows, ({ index }) => sequenceSeed(rng, index, purpose));
}

/** The seed of a sequence of its own, from a place among the draws of another. */
export function sequenceSeed(rng: Rng, step: number, row: number): bigint {
  const words = new Uint32Array(4);
  rng.fill(words, { stream: RngStream.latent, step, row });
  return (BigInt(words[1]!) << 32n) | BigInt(words[0]!);
}
