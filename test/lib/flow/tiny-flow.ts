/** A flow model trained for a moment, on the text of the tiny runs. */

import { createEngine, type Engine, type FlowModel, type TrainOptions } from "../../../lib/index.js";
import { fixture, trained } from "../training/tiny-run.js";

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

let run: Promise<string> | undefined;

async function trainedRun(): Promise<string> {
  const { options } = await fixture(tinyFlow);
  await trained(options);
  return options.run;
}

/** The tiny flow on an engine of its own; it is trained once per test file. */
export async function openTiny(threads = 1): Promise<{ engine: Engine; model: FlowModel; folder: string }> {
  run ??= trainedRun();
  const folder = await run;
  const engine = await createEngine({ threads });
  return { engine, model: await engine.load(folder, { family: "flow" }), folder };
}
