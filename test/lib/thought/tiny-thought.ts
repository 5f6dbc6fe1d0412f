/** A thought model trained for a moment, on the text of the tiny runs. */

import type { TrainOptions } from "../../../lib/index.js";

export const tinyThought: Partial<TrainOptions> = {
  shape: { hidden: 32, heads: 2, layers: 2 },
  thought: { latents: 4, window: 8, inference: { steps: 4 } },
  ...{ steps: 40, batch: 8, microBatch: 4, length: 24, warmup: 5, rate: 0.01, ema: 0.9, precision: "f32" },
  ...{ evaluateEvery: 20, evaluateDraws: 4, saveEvery: 20 },
};
