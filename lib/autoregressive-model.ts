/**
 * A loaded autoregressive model: the baseline that models of the other families are measured against, made of the same blocks.
 * It is trained, scored and evaluated; it writes no texts.
 */

import type { AutoregressiveConfig } from "./checkpoint/config.js";
import { NoemaError } from "./errors.js";
import { windowLikelihoods } from "./evaluation/likelihood.js";
import { type Exact, type Score, type ScoreOptions, score } from "./evaluation/score.js";
import type { Generation, GenerationResult } from "./generation.js";
import { Model, type ModelInfo } from "./model.js";
import type { LossRequest, NativeAutoregressiveModel } from "./native/addon.js";

export interface AutoregressiveModelInfo extends ModelInfo<AutoregressiveConfig> {
  family: "autoregressive";
  bosTokenId: number;
}

export class AutoregressiveModel extends Model<NativeAutoregressiveModel, AutoregressiveConfig> {
  readonly family = "autoregressive";

  get info(): AutoregressiveModelInfo {
    return { family: "autoregressive", ...this.commonInfo, bosTokenId: this.config.bosTokenId };
  }

  /** A text's negative log-likelihood in nats: exact, not a bound. */
  override async score(text: string | ArrayLike<number>, options?: ScoreOptions): Promise<Score> {
    return this.request(() => score(this.scorer, text, options));
  }

  /** Refused with ERR_UNSUPPORTED. */
  generate(_options?: object): Generation {
    return this.start(() => {
      throw writesNothing();
    }, undefined);
  }

  /** Refused with ERR_UNSUPPORTED. */
  async generateBatch(_options: object): Promise<GenerationResult[]> {
    this.check();
    throw writesNothing();
  }

  /** @internal For scoring and evaluation. */
  get scorer(): Exact {
    const { native, config } = this;
    const { maxPositions, eosTokenId, bosTokenId: bosId } = config;
    const losses = (signal?: AbortSignal) => (request: LossRequest) =>
      this.ended(signal, (cancellation) => native.losses({ ...request, cancellation }));
    return {
      ...{ maxPositions, eosTokenId, tokenizer: this.tokenizer },
      likelihoods: (windows, options) => windowLikelihoods({ losses: losses(options.signal), bosId }, windows, options),
    };
  }
}

function writesNothing(): NoemaError {
  const message = "an autoregressive model is a baseline to measure others against: it is scored, it writes no texts";
  return new NoemaError("ERR_UNSUPPORTED", message);
}
