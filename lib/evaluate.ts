/** Evaluating a loaded model on text files. */

import { invalid } from "./decoding/options.js";
import type { AnyModel } from "./engine.js";
import { type EvaluateOptions, type Evaluation, evaluate as evaluateFiles } from "./evaluation/evaluate.js";
import { Model } from "./model.js";

/**
 * How well the model knows text files: nats per token, perplexity, bits per character and per byte. All are upper bounds, but
 * those of autoregressive models, which are exact: `kind` says which. `sameNoiseNelbo`, of thought models and where it is asked for, bounds nothing.
 */
export async function evaluate(
  model: AnyModel,
  files: string | readonly string[],
  options?: EvaluateOptions,
): Promise<Evaluation> {
  if (!(model instanceof Model)) throw invalid("model", model, "a loaded model");
  return evaluateFiles(model.scorer, files, options);
}
