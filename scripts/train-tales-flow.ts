// Trains a flow (TarFlowLM) that tells children's stories, flow by flow.
//
//   npx tsx scripts/train-tales-flow.ts --data FOLDER [--steps 8000] [--minutes 45] [--anneal 750]
//
// The same text, tokenizer and manner of running as train-tales-masked.ts. The run lives in runs/tales-flow.
import { createEngine, type TrainOptions } from "../lib/index.js";
import { annealed, runTales, talesFlags, talesText } from "./tales-run.js";

const flags = talesFlags("tales-flow", 8000);

/** The flow nearest the data takes most of the language modelling, so it has most of the layers (Proposition 4 of the paper). */
const recipe: TrainOptions = {
  run: flags.run,
  ...talesText(flags.data),
  shape: { hidden: 256, heads: 4, intermediate: 704 },
  flow: {
    latentSize: 16,
    flows: [{ kind: "mixture-rosenblatt", direction: "forward", numLayers: 6 }],
  },
  ...{ steps: Number(flags.steps), batch: 32, microBatch: 16, length: 256 },
  ...{ rate: 1.5e-3, warmup: 300, schedule: "cosine", floor: 0.1, reconstructionHalf: 300 },
  ...{ weightDecay: 0.1, clip: 1, beta2: 0.98, ema: 0.999, precision: "bf16", seed: 1 },
  ...{ evaluateEvery: 250, evaluateSequences: 128, evaluateDraws: 1, saveEvery: 250 },
  ...{ sampleEvery: 1000, samplePrompts: ["Once upon a time", ""], sampleLength: 160 },
};

const anneal = Number(flags.anneal);
await using engine = await createEngine({ threads: Number(flags.threads) });
await runTales(engine, anneal > 0 ? await annealed(recipe, anneal) : recipe, Number(flags.minutes));
