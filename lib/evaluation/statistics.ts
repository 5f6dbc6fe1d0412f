/** Totals of window estimates, and how far they may be off. */

import { NoemaError } from "../errors.js";
import type { ThoughtTerms, WindowBound } from "./bound.js";

export interface BoundSummary {
  /** Sum over all scored tokens, in nats. */
  nats: number;
  tokens: number;
  /** Nats per token; of exact likelihoods, just these. */
  bound: number;
  /** Of `bound`, over sequences (windows): what another sample of text of this kind would change. NaN for a single sequence. */
  standardError: number;
  /** Of `bound`, over the draws alone: what other draws on the same text would change. NaN for a single draw, 0 where nothing is drawn. */
  drawError: number;
  sequences: number;
  /** Nats per token of the importance-weighted bound over the draws, where the family has one. */
  importanceWeighted?: number;
  /** Of thought models: what `bound` is the sum of, in nats per token, and the mean of the steps that fits took. */
  thought?: Omit<ThoughtTerms, "sameNoise">;
  /** Nats per token of the same-noise figure, where it was asked for: no bound, and not to be compared with one. */
  sameNoiseNelbo?: number;
}

/**
 * The ratio estimator: sequences may differ in length, so the bound is total nats / total tokens, and its error comes from
 * the residuals nats_i - bound * tokens_i.
 */
export class BoundTotals {
  #nats = 0;
  #tokens = 0;
  #count = 0;
  #natsNats = 0;
  #natsTokens = 0;
  #tokensTokens = 0;
  #variance = 0;
  #weighted: number | undefined = 0;
  #thought: ThoughtTerms | undefined;

  add({ nats, tokens, variance, importanceWeighted, thought }: WindowBound): void {
    if (!Number.isFinite(nats))
      throw new NoemaError("ERR_NON_FINITE", `the loss of sequence ${this.#count} is ${nats}`, {
        sequence: this.#count,
      });
    this.#nats += nats;
    this.#tokens += tokens;
    this.#count++;
    this.#natsNats += nats * nats;
    this.#natsTokens += nats * tokens;
    this.#tokensTokens += tokens * tokens;
    this.#variance += variance;
    if (importanceWeighted === undefined) this.#weighted = undefined;
    else if (this.#weighted !== undefined) this.#weighted += importanceWeighted;
    if (thought) this.#thought = this.#thought ? addTerms(this.#thought, thought) : thought;
  }

  summary(draws: number): BoundSummary {
    const bound = this.#nats / this.#tokens;
    const residuals = this.#natsNats - 2 * bound * this.#natsTokens + bound * bound * this.#tokensTokens;
    const n = this.#count;
    return {
      nats: this.#nats,
      tokens: this.#tokens,
      bound,
      standardError: n > 1 ? Math.sqrt(Math.max(0, residuals) * (n / (n - 1))) / this.#tokens : Number.NaN,
      drawError: draws === 1 ? Number.NaN : Math.sqrt(this.#variance) / this.#tokens,
      sequences: n,
      ...(this.#weighted !== undefined && n > 0 && { importanceWeighted: this.#weighted / this.#tokens }),
      ...(this.#thought && this.#perToken(this.#thought)),
    };
  }

  #perToken({ crossEntropy, kl, steps, sameNoise }: ThoughtTerms): Pick<BoundSummary, "thought" | "sameNoiseNelbo"> {
    const tokens = this.#tokens;
    return {
      thought: { crossEntropy: crossEntropy / tokens, kl: kl / tokens, steps: steps / this.#count },
      ...(sameNoise !== undefined && { sameNoiseNelbo: sameNoise / tokens }),
    };
  }
}

function addTerms(a: ThoughtTerms, b: ThoughtTerms): ThoughtTerms {
  return {
    ...{ crossEntropy: a.crossEntropy + b.crossEntropy, kl: a.kl + b.kl, steps: a.steps + b.steps },
    ...(a.sameNoise !== undefined && b.sameNoise !== undefined && { sameNoise: a.sameNoise + b.sameNoise }),
  };
}
