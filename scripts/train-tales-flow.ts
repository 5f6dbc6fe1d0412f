// Trains models/tales-flow: a flow (TarFlowLM) that tells children's stories.
//
//   npx tsx scripts/train-tales-flow.ts --data FOLDER [--steps 5000] [--minutes 45] [--anneal 600] [--publish]
//
// The same text, tokenizer and manner of running as train-tales-masked.ts. The run lives in runs/tales-flow; --publish trains readouts of
// its states (RUN-readouts-STEP, of the branch with --anneal) and puts checkpoint and card into models/tales-flow (or --folder).
import type { TrainOptions } from "../lib/index.js";
import { runTalesFlow } from "./tales-flow-run.js";
import { talesFlags, talesText } from "./tales-run.js";

const flags = talesFlags("tales-flow", 5000);

/**
 * The flow nearest the noise carries the language model and has most of the layers; the shallow one nearest the data comes from the
 * other side, so that every token's latents can still be moved by what follows it, and its input can be read as a draft.
 */
const recipe: TrainOptions = {
  run: flags.run,
  ...talesText(flags.data),
  shape: { hidden: 256, heads: 4, intermediate: 704 },
  flow: {
    latentSize: 16,
    flows: [
      { kind: "affine", direction: "reverse", numLayers: 2 },
      { kind: "mixture-rosenblatt", direction: "forward", numLayers: 6 },
    ],
  },
  ...{ steps: Number(flags.steps), batch: 32, microBatch: 16, length: 256 },
  // Tokens come back from their latents whatever the encoder's noise. (The run took it up at step 1,545.)
  ...{ sigmaCeiling: 0.16, changes: ["sigmaCeiling"] },
  ...{ rate: 1.5e-3, warmup: 300, schedule: "cosine", floor: 0.1, reconstructionHalf: 300 },
  ...{ weightDecay: 0.1, clip: 1, beta2: 0.98, ema: 0.999, precision: "bf16", seed: 1 },
  ...{ evaluateEvery: 250, evaluateSequences: 128, evaluateDraws: 1, saveEvery: 250 },
  ...{ sampleEvery: 1000, samplePrompts: ["Once upon a time", ""], sampleLength: 160 },
};

await runTalesFlow(flags, recipe, {
  name: "tales-flow",
  introduction: "A flow (TarFlowLM) that tells short children's stories",
  symbols: "byte-level tokens",
  training:
    "Trained jointly (tokens' deviations at most 0.16 from step 1,545 on) and written by noema with `scripts/train-tales-flow.ts`",
  draw: { temperature: 0.9, topP: 0.9 },
  tokens: 160,
});
