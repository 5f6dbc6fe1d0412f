/** A flow model trained for a moment, on the text of the tiny runs. */

import type { TrainOptions } from "../../../lib/index.js";

/** A stack of one flow of each kind that fits the tiny run's text. */
export const tinyFlow: Partial<TrainOptions> = {
  shape: { hidden: 32, heads: 2 },
  flow: {
    latentSize: 4,
    flows: [
      { kind: "mixture-rosenblatt", direction: "forward", numLayers: 2 },
      {
        ...{ kind: "mixture-cdf", direction: "reverse", numLayers: 1 },
        ...{ numComponents: 4, mafHiddenSize: 8, mafFeatures: 2 },
      },
    ],
  },
  ...{ steps: 60, batch: 8, microBatch: 4, length: 24, warmup: 5, rate: 0.01, ema: 0.9, precision: "f32" },
  ...{ evaluateEvery: 30, evaluateDraws: 2, saveEvery: 30 },
};
