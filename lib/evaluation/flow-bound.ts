/**
 * The flow family's bound on -log p(x): the telescoped NELBO of tokens encoded with fresh noise, several draws per window. Each
 * draw is an upper bound in expectation; -log mean exp of minus the draws (importance weighting, weights over whole windows)
 * is one too, never above their mean, and tighter with more draws.
 *
 * Noise is a function of (seed, window, draw, token, channel): the estimate does not depend on how draws are batched.
 */

import type { FlowConfig } from "../checkpoint/config.js";
import type { FlowBatch, FlowPass } from "../native/addon.js";
import { fillNormals } from "../normals.js";
import { filledAfter } from "../patches.js";
import { Rng, RngStream } from "../rng.js";
import { type BoundOptions, checkBound, sum, summarise, type Window, type WindowBound } from "./bound.js";

export interface FlowScorer {
  readonly config: FlowConfig;
  encode(request: FlowBatch): Promise<FlowPass>;
  /** Sees every pass, and for how many tokens of how many draws. */
  observe?(pass: FlowPass, tokens: number): void;
}

/** Rows of noise that a draw has to itself: of 4096 values each, more than a window can take. */
const ROWS_PER_DRAW = 1 << 16;

export async function* flowBounds(
  scorer: FlowScorer,
  windows: Iterable<Window> | AsyncIterable<Window>,
  options: BoundOptions = {},
): AsyncGenerator<WindowBound> {
  const settings = checkBound(options);
  const rng = new Rng(settings.seed);
  // What is refused is refused before anything is bounded, where all is known.
  if (Array.isArray(windows)) for (const window of windows) wholePatches(window, scorer.config);
  for await (const window of windows) {
    const text = wholePatches(window, scorer.config);
    const atOnce = Math.max(1, Math.floor(settings.callTokens / text.ids.length));
    const estimates: number[] = [];
    while (estimates.length < settings.draws) {
      settings.signal?.throwIfAborted();
      const draws = Math.min(atOnce, settings.draws - estimates.length);
      estimates.push(
        ...(await drawBounds(scorer, text, { rng, window: window.index, first: estimates.length, draws })),
      );
    }
    yield { ...summarise(window, estimates), importanceWeighted: importanceWeighted(estimates) };
  }
}

interface Text {
  ids: Int32Array;
  prefix: number;
}

/**
 * Ends of text fill the last patch of a window; contexts come in whole patches. What is bounded is then the likelihood
 * of the text with those at its end, which is at most that of the text: the bound stays one.
 */
function wholePatches({ index, ids, context = 0 }: Window, config: FlowConfig): Text {
  return { ids: filledAfter(ids, config, `window ${index} of the text`), prefix: context };
}

interface Draws {
  rng: Rng;
  window: number;
  first: number;
  draws: number;
}

/** Nats of some draws of one window. */
async function drawBounds(
  scorer: FlowScorer,
  { ids, prefix }: Text,
  { rng, window, first, draws }: Draws,
): Promise<number[]> {
  const { latentSize } = scorer.config;
  const tokens = ids.length - prefix;
  const noise = new Float32Array(draws * tokens * latentSize);
  const batch = new Int32Array(draws * ids.length);
  for (let i = 0; i < draws; i++) {
    const place = { stream: RngStream.latent, step: window, row: (first + i) * ROWS_PER_DRAW };
    fillNormals(rng, place, noise.subarray(i * tokens * latentSize, (i + 1) * tokens * latentSize));
    batch.set(ids, i * ids.length);
  }
  const pass = await scorer.encode({ ids: batch, batch: draws, length: ids.length, prefix, noise });
  scorer.observe?.(pass, draws * tokens);
  const positions = pass.nelbo.length / draws;
  return Array.from({ length: draws }, (_, i) => sum(pass.nelbo.subarray(i * positions, (i + 1) * positions)));
}

/** Nats that each flow of a pass takes off what the ones before it leave; of the first, the bound that it reaches alone. */
export function flowGains({ logSum, logDensity, logDet }: FlowPass): number[] {
  return logDensity.map((density, l) => {
    if (l === 0) return sum(logSum) - sum(density);
    // The density of a flow's input under the flow, against that of base noise, which the flow before counted on.
    return sum(density) - (sum(logDensity[l - 1]!) - sum(logDet[l - 1]!));
  });
}

/** -log of the mean of exp(-estimate), taken about the least one. */
function importanceWeighted(estimates: readonly number[]): number {
  const least = Math.min(...estimates);
  return least - Math.log(sum(estimates.map((value) => Math.exp(least - value))) / estimates.length);
}
