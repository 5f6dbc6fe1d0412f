/** Autoregressive models: the cross-entropy of every token of a window given those before it. */

import type { AutoregressiveConfig } from "../../checkpoint/config.js";
import { NoemaError } from "../../errors.js";
import type { Window } from "../../evaluation/bound.js";
import { nextTokens, windowLikelihoods } from "../../evaluation/likelihood.js";
import { BoundTotals } from "../../evaluation/statistics.js";
import type { LossRequest, NativeAutoregressiveModel, NativeMaskedTrainer } from "../../native/addon.js";
import type { HeldOut, Objective } from "../objective.js";
import type { TrainSettings } from "../options.js";

export interface AutoregressiveParts {
  config: AutoregressiveConfig;
  settings: TrainSettings;
  model: NativeAutoregressiveModel;
  trainer: NativeMaskedTrainer;
}

export class AutoregressiveObjective implements Objective {
  readonly kind = "exact";
  readonly #parts: AutoregressiveParts;

  constructor(parts: AutoregressiveParts) {
    this.#parts = parts;
  }

  get config(): AutoregressiveConfig {
    return this.#parts.config;
  }
  get trainer(): NativeMaskedTrainer {
    return this.#parts.trainer;
  }
  get parameters(): number {
    return this.#parts.model.info().parameters;
  }

  /** A few sequences at a time; every token weighs the same. */
  async accumulate(ids: Int32Array): Promise<number> {
    const { config, settings, trainer } = this.#parts;
    const { batch, length, microBatch } = settings;
    let loss = 0;
    for (let firstRow = 0; firstRow < batch; firstRow += microBatch) {
      const part = ids.slice(firstRow * length, Math.min(batch, firstRow + microBatch) * length);
      const weights = new Float32Array(part.length).fill(1 / (batch * length));
      const request = { ...nextTokens(part, length, config.bosTokenId), weights };
      loss += (await trainer.accumulate(request)).lossSum;
    }
    return loss;
  }

  async heldOut(windows: readonly Window[], source: "parameter" | "average", signal?: AbortSignal): Promise<HeldOut> {
    const { config, trainer } = this.#parts;
    const losses = (request: LossRequest) => trainer.losses({ ...request, source });
    const scorer = { losses, bosId: config.bosTokenId };
    const totals = new BoundTotals();
    for await (const window of windowLikelihoods(scorer, windows, { signal })) totals.add(window);
    const { bound, standardError, sequences, tokens } = totals.summary(0);
    return { bound, standardError, sequences, tokens, draws: 0 };
  }

  sample(): Promise<string> {
    return Promise.reject(noSamples());
  }

  dispose(): void {
    this.#parts.trainer.dispose();
    this.#parts.model.dispose();
  }
}

/** Found out before a run begins rather than at its first sample. */
export function checkNoSamples({ sampleEvery }: Pick<TrainSettings, "sampleEvery">): void {
  if (sampleEvery > 0) throw noSamples();
}

function noSamples(): NoemaError {
  const message = "train: sampleEvery: expected 0, for an autoregressive model writes no texts";
  return new NoemaError("ERR_UNSUPPORTED", message, { option: "sampleEvery" });
}
