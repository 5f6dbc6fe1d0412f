// Trains models/tales-masked: a masked-diffusion model of 7.5 M parameters that tells children's stories.
//
//   npx tsx scripts/train-tales-masked.ts --data FOLDER [--steps 12000] [--minutes 45] [--anneal 750] [--publish]
//
// FOLDER holds tinystories.train.txt, tinystories.valid.txt, storybooks.txt and gutenberg-children.txt (documents end with a
// line <|endoftext|>). The run lives in runs/tales-masked: stop it at any time (Ctrl-C, or --minutes), the same command goes
// on from there. --publish puts the checkpoint and its model card into models/tales-masked (or
// --folder), with --draws corruptions of every held-out window; it may be given at any step. A run that is far from its
// end has a high rate and wanders: --anneal N copies it to RUN-anneal, takes that N steps further while the rate falls to its
// floor, and publishes this branch; the run itself stays as it was and may go on later.
import { createEngine, type TrainOptions } from "../lib/index.js";
import { publishTales } from "./tales-card.js";
import { annealed, runTales, talesFlags, talesText } from "./tales-run.js";

const flags = talesFlags("tales-masked", 12000);

/** 8192 tokens a step. */
const recipe: TrainOptions = {
  run: flags.run,
  ...talesText(flags.data),
  shape: { hidden: 256, layers: 8, heads: 4, intermediate: 704 },
  ...{ steps: Number(flags.steps), batch: 32, microBatch: 16, length: 256 },
  ...{ rate: 1.5e-3, warmup: 300, schedule: "cosine", floor: 0.1 },
  ...{ weightDecay: 0.1, clip: 1, beta2: 0.98, ema: 0.999, precision: "bf16", seed: 1 },
  ...{ evaluateEvery: 250, evaluateSequences: 128, evaluateDraws: 4, saveEvery: 250 },
  ...{ sampleEvery: 1000, samplePrompts: ["Once upon a time", ""], sampleLength: 160 },
};

const anneal = Number(flags.anneal);
await using engine = await createEngine({ threads: Number(flags.threads) });
const options = anneal > 0 ? await annealed(recipe, anneal) : recipe;
const finished = await runTales(engine, options, Number(flags.minutes));
if (finished && flags.publish) {
  const { folder, draws } = flags;
  await publishTales(engine, { run: options.run, folder, options, anneal, draws: Number(draws) });
}
