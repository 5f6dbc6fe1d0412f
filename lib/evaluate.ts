/** Scoring texts and evaluating corpora with a loaded model. */

import { type EvaluateOptions, type Evaluation, evaluate as evaluateFiles } from "./evaluation/evaluate.js";
import type { ScoredModel } from "./evaluation/score.js";
import { type Score, type ScoreOptions, score as scoreText } from "./evaluation/score.js";
import type { Model } from "./model.js";

/** An upper bound on a text's negative log-likelihood, estimated from several corruptions. */
export function score(model: Model, text: string | ArrayLike<number>, options?: ScoreOptions): Promise<Score> {
  return scoreText(scored(model), text, options);
}

/** How well the model knows text files: nats per token, perplexity, bits per character and per byte; all are upper bounds. */
export function evaluate(
  model: Model,
  files: string | readonly string[],
  options?: EvaluateOptions,
): Promise<Evaluation> {
  return evaluateFiles(scored(model), files, options);
}

function scored(model: Model): ScoredModel & { eosTokenId?: number | undefined } {
  const { native, config, tokenizer } = model;
  return {
    maskId: config.maskTokenId,
    maxPositions: config.maxPositions,
    eosTokenId: config.eosTokenId,
    tokenizer,
    losses: (request) => native.losses(request),
  };
}
