/** Texts as states: tokens encoded with the encoder's noise, and numbers that describe a state. */

import type { FlowConfig } from "../checkpoint/config.js";
import { NoemaError } from "../errors.js";
import type { NativeCancellation } from "../native/addon.js";
import { latentNoise } from "../normals.js";
import { filledAfter } from "../patches.js";
import { type Prompt, promptIds } from "../request.js";
import type { Seed } from "../rng.js";
import type { FlowHost } from "./job.js";
import { flowLimits, prefixOf } from "./request.js";

/** What a text is encoded with. */
export interface EncodingOptions {
  /**
   * Text in front that is given, as the prompt of a generation: it is seen, and has no states. (`generate` puts an end-of-text token before
   * an empty prompt.) Default: none.
   */
  context?: Prompt;
  /** Of the encoder's noise. Default: 0. */
  seed?: Seed;
}

/** A text's tokens in whole patches, behind those of its context, and its noise. */
export interface Encoded {
  ids: Int32Array;
  /** Tokens that were asked for; the rest are ends of text that fill the last patch. */
  tokens: number;
  noise: Float32Array;
  /** The context in whole patches. */
  prefix: readonly number[];
}

export function encodedText(host: FlowHost, text: Prompt, { context, seed = 0 }: EncodingOptions): Encoded {
  const { config } = host;
  const prefix = contextOf(host, context);
  const limits = flowLimits(config, host.tokenizer);
  const ids = promptIds(text, limits, "text");
  const most = limits.maxPositions - prefix.length;
  if (ids.length === 0 || ids.length > most) {
    const code = ids.length > most ? "ERR_PROMPT_TOO_LONG" : "ERR_INVALID_ARGUMENT";
    const given = prefix.length > 0 ? ` after ${prefix.length} of context` : "";
    throw new NoemaError(code, `the text has ${ids.length} tokens, expected 1 .. ${most}${given}`, {
      tokens: ids.length,
      most,
    });
  }
  const filled = filledAfter(ids, config, "the text");
  return { ids: filled, tokens: ids.length, noise: latentNoise(seed, filled.length * config.latentSize), prefix };
}

/** A text's context in whole patches; there is room for a text behind it. */
export function contextOf({ config, tokenizer }: FlowHost, context: Prompt = []): number[] {
  const limits = flowLimits(config, tokenizer);
  const prefix = prefixOf(promptIds(context, limits, "context"), config, "the context");
  const most = limits.maxPositions - config.patchSize;
  if (prefix.length <= most) return prefix;
  const message = `the context has ${prefix.length} tokens, expected 0 .. ${most}, for a text is to follow`;
  throw new NoemaError("ERR_PROMPT_TOO_LONG", message, { tokens: prefix.length, most });
}

/** A native call's sequence: what is given, and the text. */
export function sequenceOf({ ids, prefix }: Pick<Encoded, "ids" | "prefix">) {
  const all = Int32Array.from([...prefix, ...ids]);
  return { ids: all, batch: 1, length: all.length, prefix: prefix.length };
}

/** Standard deviations off the mean at which the encoder is asked for a token's: many, for states lie on a grid. */
const FAR = 1024;

/**
 * Of latents that were read as these tokens, in whole patches: how far each lies from its token's mean, in the token's standard
 * deviations. The encoder knows the codebook: noise of 0 gives the mean, noise of 1 a standard deviation more.
 */
export async function distancesOf(
  { native, config }: Pick<FlowHost, "native" | "config">,
  tokens: Int32Array,
  latents: Float64Array,
  cancellation?: NativeCancellation,
): Promise<Float32Array> {
  const d = config.latentSize;
  const encoded = async (noise: number) => {
    const request = {
      ids: tokens,
      batch: 1,
      length: tokens.length,
      noise: new Float32Array(latents.length).fill(noise),
    };
    return (await native.trace({ ...request, to: 0, ...(cancellation && { cancellation }) }))[0]!;
  };
  const [means, far] = [await encoded(0), await encoded(FAR)];
  return Float32Array.from(tokens, (_, t) => {
    const off = latents.subarray(t * d, (t + 1) * d).map((z, i) => z - means[t * d + i]!);
    return (Math.hypot(...off) * FAR) / (far[t * d]! - means[t * d]!);
  });
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
