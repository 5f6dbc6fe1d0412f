// Trains models/tales-letters: a flow (TarFlowLM) that tells children's stories letter by letter.
//
//   npx tsx scripts/train-tales-letters.ts --data FOLDER [--steps 20000] [--minutes 30] [--anneal 600] [--publish] [--init models/tales-letters]
//
// The text and manner of running of train-tales-masked.ts; tokens are small letters and marks. Its states differ in earnest, which those
// of models/tales-flow do not: a flow of few symbols can move them far and still be read.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { TrainOptions } from "../lib/index.js";
import { storyTokenizer } from "./character-tokenizer.js";
import { runTalesFlow } from "./tales-flow-run.js";
import { talesFlags, talesText } from "./tales-run.js";

const flags = talesFlags("tales-letters", 20000);

/** An earlier run's end, where the run itself is gone. */
const { init } = flags;

/** The grouped head's widths are what the paper's rule gives for eight channels (tarflowlm.md section 3.1). */
const cdf = { kind: "mixture-cdf", mafHiddenSize: 64, mafFeatures: 10 } as const;
const tokenizer = join(flags.run, "letters.json");
const stack: Pick<TrainOptions, "shape" | "flow"> = {
  shape: { hidden: 160, heads: 5 },
  flow: {
    latentSize: 8,
    flows: [
      { ...cdf, direction: "reverse", numLayers: 2, numComponents: 2 },
      { ...cdf, direction: "forward", numLayers: 6, numComponents: 27 },
    ],
  },
};
const recipe: TrainOptions = {
  ...talesText(flags.data),
  ...{ run: flags.run, tokenizer },
  ...(init === undefined ? stack : { init }),
  // Without its share the upper flow would do all the work, and the lower one nothing that could be seen. Letters would be moved
  // together to please it.
  ...{ beginnings: 0.3, codebook: "fixed", sigmaCeiling: 0.15 },
  ...{ steps: Number(flags.steps), batch: 16, microBatch: 16, length: 256 },
  ...(init === undefined ? { rate: 2.5e-3, warmup: 300, floor: 0.1 } : { rate: 1.2e-3, warmup: 100, floor: 0.02 }),
  ...{ schedule: "cosine", reconstructionHalf: 300 },
  ...{ weightDecay: 0.1, clip: 1, beta2: 0.98, ema: 0.999, precision: "bf16", seed: 1 },
  ...{ evaluateEvery: 500, evaluateSequences: 128, evaluateDraws: 1, saveEvery: 250 },
  ...{ sampleEvery: 1000, samplePrompts: ["Once upon a time", ""], sampleLength: 224 },
};

await mkdir(flags.run, { recursive: true });
await writeFile(tokenizer, storyTokenizer());
await runTalesFlow(flags, recipe, {
  name: "tales-letters",
  introduction: "A flow (TarFlowLM) that tells short children's stories letter by letter",
  symbols: "letters and marks",
  symbol: "letter or mark",
  training: `Trained jointly, and with its beginnings as models of their own, by noema with \`scripts/train-tales-letters.ts\`${
    init === undefined ? "" : ", which went on from the weights of an earlier run"
  }`,
  draw: { temperature: 0.9 },
  tokens: 224,
});
