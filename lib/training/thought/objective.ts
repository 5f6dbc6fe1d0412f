/**
 * Latent thought models (ltm.md section 2): the fast loop fits every sequence's posterior, then the decoder takes a step on the
 * cross-entropy at a draw from it. That draw is fresh under noise "resample", so cross-entropy and KL divergence together are an
 * unbiased estimate of the bound; under "shared" noise they are the same-noise figure, which is none, and neither is what counts a part
 * of the divergence, while its weight rises.
 */

import type { ThoughtConfig } from "../../checkpoint/config.js";
import { sum, type Window } from "../../evaluation/bound.js";
import { nextTokens } from "../../evaluation/likelihood.js";
import { BoundTotals } from "../../evaluation/statistics.js";
import { sequenceSeed, thoughtBounds } from "../../evaluation/thought-bound.js";
import type {
  BoundRequest,
  FitRequest,
  NativeFit,
  NativeThoughtModel,
  NativeThoughtTrainer,
} from "../../native/addon.js";
import { fitSettings } from "../../posterior/fit.js";
import { divergence } from "../../posterior/thought.js";
import { Rng } from "../../rng.js";
import { HELD_OUT_SEED, type HeldOut, type Objective } from "../objective.js";
import type { TrainSettings } from "../options.js";

export interface ThoughtParts {
  config: ThoughtConfig;
  settings: TrainSettings;
  model: NativeThoughtModel;
  trainer: NativeThoughtTrainer;
  sample: Objective["sample"];
}

export class ThoughtObjective implements Objective {
  readonly kind = "upper";
  readonly #parts: ThoughtParts;
  readonly #fit: NativeFit;
  readonly #training: NativeFit;

  constructor(parts: ThoughtParts) {
    this.#parts = parts;
    this.#fit = fitSettings({}, parts.config);
    const { steps } = this.#fit;
    this.#training = {
      ...fitSettings({ steps: Math.min(steps, parts.settings.fitSteps || steps) }, parts.config),
      repeated: true,
    };
  }

  get config(): ThoughtConfig {
    return this.#parts.config;
  }
  get trainer(): NativeThoughtTrainer {
    return this.#parts.trainer;
  }
  get parameters(): number {
    return this.#parts.model.info().parameters;
  }

  /** A few sequences at a time, each with a seed of its own; every token weighs the same. */
  async accumulate(ids: Int32Array, step: number): Promise<number> {
    const { config, settings, trainer } = this.#parts;
    const { batch, length, microBatch } = settings;
    const tokens = batch * length;
    const rng = new Rng(settings.seed);
    const trajectory = settings.trajectory === "all";
    const weight = klWeight(step, settings.klWarmup);
    const fit = quietened(this.#training, weight);
    let loss = 0;
    for (let firstRow = 0; firstRow < batch; firstRow += microBatch) {
      const part = ids.slice(firstRow * length, Math.min(batch, firstRow + microBatch) * length);
      const { excludedId: _, ...request } = nextTokens(part, length, config.bosTokenId);
      const weights = new Float32Array(part.length).fill(1 / tokens);
      const seeds = BigUint64Array.from({ length: request.batch }, (_, row) => sequenceSeed(rng, step, firstRow + row));
      const { tokenLoss, posterior } = await trainer.accumulate({ ...request, weights, seeds, fit, trajectory });
      loss += (sum(tokenLoss) + weight * divergence(posterior!)) / tokens;
    }
    return loss;
  }

  async heldOut(windows: readonly Window[], source: "parameter" | "average", signal?: AbortSignal): Promise<HeldOut> {
    const { config, settings, trainer } = this.#parts;
    const draws = settings.evaluateDraws;
    const totals = new BoundTotals();
    const scorer = {
      fit: (request: FitRequest) => trainer.fit({ ...request, source }),
      bound: (request: BoundRequest) => trainer.bound({ ...request, source }),
      ...{ bosId: config.bosTokenId, settings: this.#fit },
    };
    for await (const bound of thoughtBounds(scorer, windows, { draws, seed: HELD_OUT_SEED, signal })) totals.add(bound);
    const { bound, standardError, sequences, tokens, importanceWeighted = bound, thought } = totals.summary(draws);
    const { crossEntropy = bound, kl = 0 } = thought ?? {};
    return { bound, standardError, sequences, tokens, draws, thought: { crossEntropy, kl, importanceWeighted } };
  }

  sample(prompt: string, seed: number): Promise<string> {
    return this.#parts.sample(prompt, seed);
  }

  dispose(): void {
    this.#parts.trainer.dispose();
    this.#parts.model.dispose();
  }
}

/** By stairs: a device that has recorded the loop for one weight can replay it for a while. */
const STAIRS = 50;

/** Of the divergence, while it rises with the steps from 0. */
export function klWeight(step: number, warmup: number): number {
  return step >= warmup ? 1 : Math.floor((step / warmup) * STAIRS) / STAIRS;
}

/** Of a log-variance: the paper's start of its loop, a deviation of 0.08. */
const QUIET = -5;

/**
 * With so much of the divergence. What that does not push to the prior stays as narrow as it starts: with little of it a fit starts at
 * QUIET, and thoughts come nearly without noise, which a fresh decoder would have to learn to ignore before it could listen.
 */
export function quietened(fit: NativeFit, weight: number): NativeFit {
  const quiet = Math.min(QUIET, fit.logVarianceInit);
  return { ...fit, klWeight: weight, logVarianceInit: weight * fit.logVarianceInit + (1 - weight) * quiet };
}
