// Trains models/tales-thought: a latent thought model (LTM) that tells children's stories.
//
//   npx tsx scripts/train-tales-thought.ts --data FOLDER [--steps 1600] [--minutes 60] [--anneal 50] [--publish]
//   npx tsx scripts/train-tales-thought.ts --data FOLDER --baseline [--steps 1600]
//
// The same text, tokenizer and manner of running as train-tales-masked.ts. A step of the fast loop costs two thirds of a step of the
// decoder's own training, so most of the run has few; the branch that --anneal makes has the model's own number of them. --publish puts
// checkpoint and card into models/tales-thought (or --folder). --baseline trains the autoregressive model that the card compares
// continuations with, into RUN-baseline.
import { createEngine, type TrainOptions } from "../lib/index.js";
import { annealed, runTales, talesFlags, talesText } from "./tales-run.js";
import { publishThought } from "./tales-thought-card.js";

const flags = talesFlags("tales-thought", 1600);

const recipe: TrainOptions = {
  run: flags.run,
  ...talesText(flags.data),
  shape: { hidden: 256, layers: 6, heads: 4, intermediate: 704 },
  // So few keys that a story's beginning is out of sight from its end: what is to be known there, a thought has to say.
  thought: { latents: 24, window: 16, tied: false },
  ...{ steps: Number(flags.steps), batch: 16, length: 256, fitSteps: 4, klWarmup: 900 },
  ...{ rate: 1.5e-3, warmup: 200, schedule: "cosine", floor: 0.1 },
  ...{ weightDecay: 0.1, clip: 1, beta2: 0.98, ema: 0.998, precision: "bf16", seed: 1 },
  ...{ evaluateEvery: 300, evaluateSequences: 64, evaluateDraws: 4, saveEvery: 100 },
  ...{ sampleEvery: 600, samplePrompts: ["Once upon a time", ""], sampleLength: 160 },
};

/** The same blocks, text and steps, without thoughts. */
function baselineOf({
  thought: _,
  fitSteps: __,
  klWarmup: ___,
  samplePrompts: ____,
  ...options
}: TrainOptions): TrainOptions {
  return { ...options, run: `${options.run}-baseline`, family: "autoregressive", sampleEvery: 0 };
}

const anneal = Number(flags.anneal);
await using engine = await createEngine({ threads: Number(flags.threads) });
const own = anneal > 0 ? await annealed(recipe, anneal) : recipe;
const options = anneal > 0 ? { ...own, fitSteps: 0, changes: [...(own.changes ?? []), "fitSteps"] } : own;
const finished = await runTales(engine, flags.baseline ? baselineOf(recipe) : options, Number(flags.minutes));
if (finished && flags.publish) {
  const { folder, draws, run } = flags;
  const where = { run: options.run, baseline: `${run}-baseline`, folder };
  await publishThought(engine, { ...where, options, anneal, draws: Number(draws) });
}
