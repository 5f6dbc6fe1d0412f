/** Texts as states: tokens encoded with the encoder's noise, and numbers that describe a state. */

import type { FlowConfig } from "../checkpoint/config.js";
import { NoemaError } from "../errors.js";
import { latentNoise } from "../normals.js";
import { filledAfter } from "../patches.js";
import { promptIds } from "../request.js";
import type { Seed } from "../rng.js";
import type { FlowHost } from "./job.js";
import { flowLimits } from "./request.js";

/** A text's tokens in whole patches, and its noise. */
export interface Encoded {
  ids: Int32Array;
  /** Tokens that were asked for; the rest are ends of text that fill the last patch. */
  tokens: number;
  noise: Float32Array;
}

export function encodedText(host: FlowHost, text: string | ArrayLike<number>, seed: Seed = 0): Encoded {
  const { config } = host;
  const limits = flowLimits(config, host.tokenizer);
  const ids = promptIds(text, limits, "text");
  const most = limits.maxPositions;
  if (ids.length === 0 || ids.length > most) {
    const code = ids.length > most ? "ERR_PROMPT_TOO_LONG" : "ERR_INVALID_ARGUMENT";
    throw new NoemaError(code, `the text has ${ids.length} tokens, expected 1 .. ${most}`, {
      tokens: ids.length,
      most,
    });
  }
  const filled = filledAfter(ids, config, "the text");
  return { ids: filled, tokens: ids.length, noise: latentNoise(seed, filled.length * config.latentSize) };
}

/** What tokens say; nothing where there is no tokenizer. */
export function writtenAs(ids: ArrayLike<number>, { tokenizer }: Pick<FlowHost, "tokenizer">): string {
  return tokenizer?.decode(ids, { skipSpecialTokens: true }) ?? "";
}

/** How a state [N,c] looks as a cloud of N vectors (tarflowlm.md section 4). */
export interface StateStatistics {
  /** Mean length of a position's vector. */
  norm: number;
  /** Mean cosine over pairs of positions; 1 of a single one. */
  cosine: number;
  /**
   * (sum of the covariance's eigenvalues)² over the sum of their squares: how many directions the cloud fills, 1 .. c;
   * 0 of a single position.
   */
  participationRatio: number;
  /** How far the mean vector lies from that of the state before, in the latents' units; 0 of the first state. */
  centroidMove: number;
}

export function statisticsOf(state: Float64Array, c: number, before?: Float64Array): StateStatistics {
  const N = state.length / c;
  const mean = centroid(state, c);
  const last = before ? centroid(before, c) : mean;
  const lengths = Float64Array.from({ length: N }, (_, n) => Math.hypot(...state.subarray(n * c, (n + 1) * c)));
  return {
    norm: lengths.reduce((sum, length) => sum + length, 0) / N,
    cosine: meanCosine(state, c, lengths),
    participationRatio: participationRatio(state, c, mean),
    centroidMove: Math.hypot(...mean.map((x, i) => x - last[i]!)),
  };
}

function centroid(state: Float64Array, c: number): Float64Array {
  const mean = new Float64Array(c);
  for (let i = 0; i < state.length; i++) mean[i % c]! += state[i]! / (state.length / c);
  return mean;
}

/**
 * The sum over all pairs is that of the unit vectors' sum with itself, less the ones of each with itself (zero has
 * none).
 */
function meanCosine(state: Float64Array, c: number, lengths: Float64Array): number {
  const total = new Float64Array(c);
  for (let i = 0; i < state.length; i++) total[i % c]! += state[i]! / (lengths[Math.floor(i / c)]! || 1);
  const N = lengths.length;
  if (N < 2) return 1;
  const own = lengths.reduce((sum, length) => sum + Number(length > 0), 0);
  return (total.reduce((sum, x) => sum + x * x, 0) - own) / (N * (N - 1));
}

/** Of eigenvalues, the sum is the covariance's trace, the sum of squares that of its entries' squares. */
function participationRatio(state: Float64Array, c: number, mean: Float64Array): number {
  const N = state.length / c;
  const covariance = new Float64Array(c * c);
  for (let n = 0; n < N; n++)
    for (let i = 0; i < c; i++) {
      const x = state[n * c + i]! - mean[i]!;
      for (let j = 0; j < c; j++) covariance[i * c + j]! += (x * (state[n * c + j]! - mean[j]!)) / N;
    }
  let trace = 0;
  for (let i = 0; i < c; i++) trace += covariance[i * c + i]!;
  const squares = covariance.reduce((sum, x) => sum + x * x, 0);
  return (trace * trace) / (squares + 1e-12);
}

export function latentSizes({ latentSize, patchSize }: FlowConfig): { c: number; d: number; P: number } {
  return { c: latentSize * patchSize, d: latentSize, P: patchSize };
}
