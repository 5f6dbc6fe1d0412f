/** Masked diffusion: the weighted cross-entropy of hidden tokens. */

import type { MaskedConfig } from "../../checkpoint/config.js";
import { type Window, windowBounds } from "../../evaluation/bound.js";
import { BoundTotals } from "../../evaluation/statistics.js";
import type { LossRequest, NativeMaskedModel, NativeMaskedTrainer } from "../../native/addon.js";
import { HELD_OUT_SEED, type HeldOut, type Objective } from "../objective.js";
import type { TrainSettings } from "../options.js";
import { corrupt } from "./corruption.js";

export interface MaskedParts {
  config: MaskedConfig;
  settings: TrainSettings;
  model: NativeMaskedModel;
  trainer: NativeMaskedTrainer;
  sample: Objective["sample"];
}

export class MaskedObjective implements Objective {
  readonly kind = "upper";
  protected readonly parts: MaskedParts;

  constructor(parts: MaskedParts) {
    this.parts = parts;
  }

  get config(): MaskedConfig {
    return this.parts.config;
  }
  get trainer(): NativeMaskedTrainer {
    return this.parts.trainer;
  }
  get parameters(): number {
    return this.parts.model.info().parameters;
  }

  /** A few sequences at a time. */
  async accumulate(ids: Int32Array, step: number): Promise<number> {
    const { config, settings, trainer } = this.parts;
    const { batch, length, microBatch, seed, times } = settings;
    let loss = 0;
    for (let firstRow = 0; firstRow < batch; firstRow += microBatch) {
      const part = ids.subarray(firstRow * length, Math.min(batch, firstRow + microBatch) * length);
      const clean = { ids: part, length, firstRow, totalRows: batch };
      const corruption = { seed, maskId: config.maskTokenId, times };
      const { hidden: _, probabilities: __, ...rows } = corrupt(clean, step, corruption);
      const request = { ...rows, batch: part.length / length, length, excludedId: config.maskTokenId };
      loss += (await trainer.accumulate(request)).lossSum;
    }
    return loss;
  }

  async heldOut(windows: readonly Window[], source: "parameter" | "average", signal?: AbortSignal): Promise<HeldOut> {
    const { config, settings, trainer } = this.parts;
    const draws = settings.evaluateDraws;
    const losses = (request: LossRequest) => trainer.losses({ ...request, source });
    const totals = new BoundTotals();
    const options = { draws, seed: HELD_OUT_SEED, signal };
    for await (const bound of windowBounds({ maskId: config.maskTokenId, losses }, windows, options)) totals.add(bound);
    const { bound, standardError, sequences, tokens } = totals.summary(draws);
    return { bound, standardError, sequences, tokens, draws };
  }

  sample(prompt: string, seed: number): Promise<string> {
    return this.parts.sample(prompt, seed);
  }

  dispose(): void {
    this.parts.trainer.dispose();
    this.parts.model.dispose();
  }
}
