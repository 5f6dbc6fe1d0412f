// A flow that tells stories: its run, the run of its readouts, and the model that both become.
import { readFile } from "node:fs/promises";
import { createEngine, type TrainOptions } from "../lib/index.js";
import { type FlowAbout, publishFlow } from "./tales-flow-card.js";
import { annealed, runTales, type TalesFlags } from "./tales-run.js";

/** Of the flows as they stand in `init`: a later step's are another run. */
async function readoutsOf(init: string, options: TrainOptions): Promise<TrainOptions> {
  const { corpus, heldOut = [], batch = 32, microBatch = batch, length = 256 } = options;
  const { step } = JSON.parse(await readFile(`${init}/state/state.json`, "utf8"));
  return {
    ...{ run: `${init}-readouts-${step}`, init, corpus, heldOut, cache: `${init}/cache`, readouts: 128 },
    ...{ steps: 300, batch, microBatch, length, rate: 3e-3, warmup: 20, ema: 0.98 },
    ...{ precision: "bf16", seed: 2, evaluateEvery: 100, evaluateSequences: 128, evaluateDraws: 1, saveEvery: 100 },
  };
}

/** Trains, as far as the flags say, and publishes where they ask for it. */
export async function runTalesFlow(flags: TalesFlags, recipe: TrainOptions, about: FlowAbout): Promise<void> {
  const anneal = Number(flags.anneal);
  await using engine = await createEngine({ threads: Number(flags.threads) });
  const options = anneal > 0 ? await annealed(recipe, anneal) : recipe;
  if (!(await runTales(engine, options, Number(flags.minutes))) || !flags.publish) return;
  const readouts = await readoutsOf(options.run, options);
  if (!(await runTales(engine, readouts, 0))) return;
  const { folder, draws } = flags;
  const runs = { run: options.run, readouts: readouts.run };
  await publishFlow(engine, { ...runs, about, folder, options, anneal, draws: Number(draws) });
}
