/**
 * The thought family's bounds on -log p(x) (ltm.md section 3.5). Every window's posterior is fitted to the window by the fast loop; then
 * fresh draws, which the fit has not seen, give the bound: their mean cross-entropy plus the KL divergence from the prior. Weighted by
 * importance, -log of the mean of p(x,z) / q(z), they give a tighter one. The same-noise figure, for comparison with published ones, is
 * another fit's own objective: its posterior was fitted around the one draw that scores it, so it bounds nothing.
 *
 * With a context, the posterior is fitted to the context alone, and the rest is scored given it: the mean over draws of -log p(rest |
 * context, z) bounds the loss of the predictor that averages over the posterior, and -log of the mean likelihood is that predictor's, in expectation from above.
 *
 * Draws are a function of (seed, window): the estimate does not depend on how windows are batched.
 */

import type { BoundRequest, BoundResult, FitRequest, FitResult, NativeFit } from "../native/addon.js";
import { Rng, RngStream, type Seed } from "../rng.js";
import { checkBound, type EstimateOptions, sum, type Window, type WindowBound } from "./bound.js";
import { inCalls, textBatch } from "./likelihood.js";

export interface ThoughtScorer {
  fit(request: FitRequest): Promise<FitResult>;
  bound(request: BoundRequest): Promise<BoundResult>;
  readonly bosId: number;
  readonly settings: NativeFit;
}

export async function* thoughtBounds(
  scorer: ThoughtScorer,
  windows: Iterable<Window> | AsyncIterable<Window>,
  options: EstimateOptions = {},
): AsyncGenerator<WindowBound> {
  const { callTokens, signal, seed, draws } = checkBound(options);
  const scoring = { seed, draws, sameNoise: options.sameNoise ?? false };
  for await (const some of inCalls(windows, callTokens)) {
    signal?.throwIfAborted();
    yield* await boundsOf(scorer, some, scoring);
  }
}

interface Scoring {
  seed: Seed;
  draws: number;
  sameNoise: boolean;
}

async function boundsOf(scorer: ThoughtScorer, windows: readonly Window[], scoring: Scoring): Promise<WindowBound[]> {
  const { fitted, shared } = await fits(scorer, windows, scoring);
  const bounds = await scorer.bound({
    ...textBatch(windows, scorer.bosId),
    ...{ mean: fitted.mean, logVariance: fitted.logVariance },
    ...{ count: scoring.draws, seeds: seedsOf(scoring.seed, windows, DRAW) },
  });
  return windows.map((window, b) => {
    const { thought, ...estimate } = estimateOf(window, bounds, b);
    const sameNoise = shared && { sameNoise: shared.crossEntropy.at(-1)![b]! + shared.kl.at(-1)![b]! };
    return { ...estimate, thought: { ...thought, steps: fitted.steps[b]!, ...sameNoise } };
  });
}

/** The fit that is scored by fresh draws, and, where it is asked for, the one that its own draw scores: under "shared" noise they are one. */
async function fits(
  scorer: ThoughtScorer,
  windows: readonly Window[],
  { seed, sameNoise }: Scoring,
): Promise<{ fitted: FitResult; shared: FitResult | undefined }> {
  // Windows are of one length, but for the last.
  const settings = { ...scorer.settings, repeated: true };
  const request = { ...textBatch(windows.map(fittedTo), scorer.bosId), seeds: seedsOf(seed, windows, FIT) };
  const isShared = settings.noise === "shared";
  const fitted = await scorer.fit({ ...request, fit: { ...settings, score: sameNoise && isShared } });
  if (!sameNoise || isShared) return { fitted, shared: sameNoise ? fitted : undefined };
  return { fitted, shared: await scorer.fit({ ...request, fit: { ...settings, noise: "shared", score: true } }) };
}

/** A context is what is fitted, where there is one. */
function fittedTo({ index, ids, context = 0 }: Window): Window {
  return { index, ids: context === 0 ? ids : ids.subarray(0, context) };
}

function estimateOf(window: Window, { crossEntropy: all, kl, iwae }: BoundResult, b: number) {
  const { index, ids, context = 0 } = window;
  const draws = Array.from({ length: all.length / kl.length }, (_, k) => all[k * kl.length + b]!);
  const thought = { crossEntropy: sum(draws) / draws.length, kl: context === 0 ? kl[b]! : 0 };
  const spread = sum(draws.map((nats) => (nats - thought.crossEntropy) ** 2));
  const variance = draws.length > 1 ? spread / (draws.length - 1) / draws.length : 0;
  const importanceWeighted = context === 0 ? iwae[b]! : -logMeanExp(draws.map((nats) => -nats));
  const nats = thought.crossEntropy + thought.kl;
  return { index, tokens: ids.length - context, nats, variance, importanceWeighted, thought };
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
