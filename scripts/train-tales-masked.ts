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
import { existsSync } from "node:fs";
import { cp, readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createEngine, type Engine, NoemaError, type TrainOptions, train } from "../lib/index.js";
import { publishTales } from "./tales-card.js";

const { values } = parseArgs({
  options: {
    data: { type: "string" },
    run: { type: "string", default: "runs/tales-masked" },
    steps: { type: "string", default: "12000" },
    minutes: { type: "string", default: "0" },
    anneal: { type: "string", default: "0" },
    threads: { type: "string", default: "0" },
    publish: { type: "boolean", default: false },
    folder: { type: "string", default: "models/tales-masked" },
    draws: { type: "string", default: "8" },
  },
});

/** 8192 tokens a step. TinyStories is four fifths of what is seen: the model is to tell stories, not to write like 1890. */
function recipe(data: string, run: string, steps: number): TrainOptions {
  const file = (name: string) => join(data, name);
  return {
    run,
    corpus: [
      { path: file("tinystories.train.txt"), weight: 2 },
      { path: file("storybooks.txt"), weight: 1 },
      { path: file("gutenberg-children.txt"), weight: 0.25 },
    ],
    heldOut: [file("tinystories.valid.txt")],
    tokenizer: "models/tales-masked/tokenizer.json",
    shape: { hidden: 256, layers: 8, heads: 4, intermediate: 704 },
    ...{ steps, batch: 32, microBatch: 16, length: 256 },
    ...{ rate: 1.5e-3, warmup: 300, schedule: "cosine", floor: 0.1 },
    ...{ weightDecay: 0.1, clip: 1, beta2: 0.98, ema: 0.999, precision: "bf16", seed: 1 },
    ...{ evaluateEvery: 250, evaluateSequences: 128, evaluateDraws: 4, saveEvery: 250 },
    ...{ sampleEvery: 1000, samplePrompts: ["Once upon a time", ""], sampleLength: 160 },
  };
}

class TimeIsUp extends NoemaError {}

/** Ends at the last step, at the time limit or at Ctrl-C; in each case everything is saved. */
async function session(engine: Engine, options: TrainOptions, minutes: number): Promise<void> {
  const controller = new AbortController();
  const stop = (why: string) => controller.abort(new TimeIsUp("ERR_ABORTED", why));
  process.once("SIGINT", () => stop("interrupted"));
  process.once("SIGTERM", () => stop("interrupted"));
  const timer = minutes > 0 ? setTimeout(() => stop(`${minutes} minutes are over`), minutes * 60_000) : undefined;
  try {
    for await (const event of train(engine, { ...options, signal: controller.signal })) {
      if (event.type === "step" && event.step % 10 !== 0) continue;
      console.log(JSON.stringify(event));
    }
  } catch (error) {
    if (!(error instanceof TimeIsUp)) throw error;
    console.log(`${error.message}; the state is saved`);
  } finally {
    clearTimeout(timer);
  }
}

/** The branch of a run that falls to the floor within `steps`. Made by copying the run as it stands, or found half done. */
async function annealed(options: TrainOptions, steps: number): Promise<TrainOptions> {
  const branch = `${options.run}-anneal`;
  if (!existsSync(branch)) await cp(options.run, branch, { recursive: true });
  const { step } = JSON.parse(await readFile(join(options.run, "state", "state.json"), "utf8"));
  // A shorter average: half of a slow one would be weights from before the fall.
  return { ...options, run: branch, steps: step + steps, ema: 0.995, changes: ["steps", "ema"] };
}

if (!values.data) throw new Error("--data FOLDER: where the text files are");
const anneal = Number(values.anneal);
await using engine = await createEngine({ threads: Number(values.threads) });
let options = recipe(values.data, values.run, Number(values.steps));
if (anneal > 0) options = await annealed(options, anneal);
await session(engine, options, Number(values.minutes));
if (values.publish) {
  const { folder, draws } = values;
  await publishTales(engine, { run: options.run, folder, options, anneal, draws: Number(draws) });
}
