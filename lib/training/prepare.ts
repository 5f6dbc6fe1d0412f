/** Everything a run needs before its first step: text, config, saved state, trainer. */

import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { ModelConfig } from "../checkpoint/config.js";
import { NoemaError } from "../errors.js";
import { ioError, writeAll, writeAtomically } from "../files.js";
import type { NativeEngine, NativeTrainer } from "../native/addon.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { AutoregressiveObjective, checkNoSamples } from "./autoregressive/objective.js";
import { FlowObjective } from "./flow/objective.js";
import { ReadoutObjective } from "./flow/readouts.js";
import { checkFlowPrompts, flowSampler } from "./flow/samples.js";
import { configOf, firstWeights, savedWeights, type Weights } from "./initialise.js";
import { openInputs, openTokenizer } from "./inputs.js";
import { lockRun, type RunLock } from "./lock.js";
import { MaskedObjective } from "./masked/objective.js";
import { RejectiveObjective } from "./masked/rejective-objective.js";
import { checkPrompts, textSampler } from "./masked/samples.js";
import { MetricsLog } from "./metrics.js";
import type { Objective } from "./objective.js";
import type { TrainOptions, TrainSettings } from "./options.js";
import { Session } from "./session.js";
import { checkContinuation, loadState, readBuffer, type StateBuffer, type TrainingState } from "./state.js";
import { ThoughtObjective } from "./thought/objective.js";
import { thoughtSampler } from "./thought/samples.js";

/** What training needs of an engine. */
export interface TrainingEngine {
  readonly native: Pick<NativeEngine, "loadMasked" | "loadFlow" | "loadThought" | "loadAutoregressive">;
}

export interface OpenedSession {
  session: Session;
  corpusTokens: number;
  /** On the run's folder, until the session is disposed of. */
  lock: RunLock;
}

interface Closable {
  close(): void | Promise<void>;
}

/** What contradicts a saved state is found before the text is read, which may take a while. `settings` are those of the options. */
export async function openSession(
  engine: TrainingEngine,
  options: TrainOptions,
  settings: TrainSettings,
): Promise<OpenedSession> {
  await makeFolder(options.run);
  const lock = await lockRun(options.run);
  try {
    return { ...(await openLocked(engine, options, settings)), lock };
  } catch (error) {
    await lock.release();
    throw error;
  }
}

async function openLocked(
  engine: TrainingEngine,
  options: TrainOptions,
  settings: TrainSettings,
): Promise<Omit<OpenedSession, "lock">> {
  await removeLeftovers(options.run);
  const tokenizer = await openTokenizer(options);
  const config = await configOf(options, settings, tokenizer);
  const wanted = { settings, config, tokenizer: tokenizer.sha256 };
  const saved = await loadState(options.run);
  if (saved) checkContinuation(saved, wanted, options.changes);
  const { samplePrompts = [""] } = options;
  if (config.layout === "noema-flow") checkFlowPrompts(samplePrompts, config, tokenizer);
  else if (config.layout === "noema-autoregressive") checkNoSamples(settings);
  else checkPrompts(samplePrompts, config, tokenizer);
  const inputs = await openInputs(options, settings, { tokenizer, config });
  const owned: Closable[] = [inputs.data];
  try {
    const state = { ...(saved ?? { step: 0, tokens: 0, seconds: 0 }), ...wanted, corpus: inputs.hash };
    if (saved) checkContinuation(saved, state, options.changes);
    await writeRecipe(options);
    const progress = { state, resumed: saved !== undefined };
    const metrics = await MetricsLog.open(join(options.run, "metrics.jsonl"), state.step);
    const objective = await openObjective(engine, options, { ...progress, owned, tokenizer });
    const text = { data: inputs.data, heldOut: inputs.heldOut, tokenizerPath: tokenizer.path };
    const parts = { run: options.run, settings, metrics, objective, samplePrompts };
    return { session: new Session({ ...parts, ...text, ...progress }), corpusTokens: inputs.tokens };
  } catch (error) {
    for (const thing of owned.reverse()) await thing.close();
    throw error;
  }
}

async function makeFolder(run: string): Promise<void> {
  try {
    await mkdir(run, { recursive: true });
  } catch (error) {
    throw ioError("making the run's folder", run, error);
  }
}

/** Removes what a killed process was writing. */
async function removeLeftovers(run: string): Promise<void> {
  try {
    const leftovers = (await readdir(run)).filter((name) => /^\..*\.tmp$/.test(name));
    for (const name of leftovers) await rm(join(run, name), { recursive: true, force: true });
  } catch (error) {
    throw ioError("preparing the run's folder", run, error);
  }
}

/** Notes what the run does, which also finds out before the first step whether the folder can be written. */
async function writeRecipe({ signal: _, ...recipe }: TrainOptions): Promise<void> {
  const text = Buffer.from(`${JSON.stringify(recipe, null, 2)}\n`);
  await writeAtomically(join(recipe.run, "recipe.json"), (handle) => writeAll(handle, text));
}

interface Opening {
  state: TrainingState;
  resumed: boolean;
  owned: Closable[];
  tokenizer: Tokenizer;
}

/** Model and trainer, with the saved buffers or fresh ones. What it opens goes to `owned` for the caller to close. */
async function openObjective(
  engine: TrainingEngine,
  options: TrainOptions,
  { state, resumed, owned, tokenizer }: Opening,
): Promise<Objective> {
  const { run, init, signal, sampleDecoding: decoding } = options;
  const { config, settings } = state;
  const tensors = resumed ? await savedWeights(run, config) : await firstWeights(init, config, settings.seed);
  signal?.throwIfAborted();
  const own = <T extends { dispose(): void }>(thing: T): T => {
    owned.push({ close: () => thing.dispose() });
    return thing;
  };
  const average = settings.ema > 0;
  const fill = { run, average, resumed };
  const length = settings.sampleLength;
  refuseObjective(config, settings);
  if (config.layout === "noema-flow") {
    const model = own(await engine.native.loadFlow(config, tensors, settings.precision));
    const trainer = own(await model.trainer({ keepAverage: average }));
    await fillBuffers(trainer, tensors, fill);
    const sample = flowSampler(model, config, tokenizer, { length });
    const parts = { config, settings, model, trainer, sample };
    if (settings.readouts > 0) {
      await trainer.trainReadouts();
      return new ReadoutObjective(parts);
    }
    await trainer.trainFrom(settings.stage, settings.codebook === "fixed");
    return new FlowObjective(parts);
  }
  if (config.layout === "noema-autoregressive") {
    const model = own(await engine.native.loadAutoregressive(config, tensors, settings.precision));
    const trainer = own(await model.trainer({ keepAverage: average }));
    await fillBuffers(trainer, tensors, fill);
    return new AutoregressiveObjective({ config, settings, model, trainer });
  }
  if (config.layout === "noema-thought") {
    const model = own(await engine.native.loadThought(config, tensors, settings.precision));
    const trainer = own(await model.trainer({ keepAverage: average }));
    await fillBuffers(trainer, tensors, fill);
    const sample = thoughtSampler({ native: model, config }, tokenizer, { length });
    return new ThoughtObjective({ config, settings, model, trainer, sample });
  }
  const model = own(await engine.native.loadMasked(config, tensors, settings.precision));
  const trainer = own(await model.trainer({ keepAverage: average }));
  await fillBuffers(trainer, tensors, fill);
  const sample = textSampler(model, config, tokenizer, { length, decoding });
  const parts = { config, settings, model, trainer, sample };
  return settings.objective === "r2ft" ? new RejectiveObjective(parts) : new MaskedObjective(parts);
}

/** Only masked models have another objective than their bound. */
function refuseObjective({ layout }: ModelConfig, { objective }: TrainSettings): void {
  if (objective === "nelbo" || !layout.startsWith("noema-")) return;
  const message = `train: objective is "${objective}", expected "nelbo" for a model of layout "${layout}"`;
  throw new NoemaError("ERR_INVALID_ARGUMENT", message, { option: "objective", value: objective });
}

/** A fresh run's moments are zero already, and its average begins as the weights. */
async function fillBuffers(
  trainer: NativeTrainer,
  weights: readonly Weights[],
  { run, average, resumed }: { run: string; average: boolean; resumed: boolean },
): Promise<void> {
  const saved: StateBuffer[] = average ? ["m", "v", "average"] : ["m", "v"];
  for (const buffer of resumed ? saved : [])
    for await (const { name, data } of readBuffer(run, buffer, trainer.names()))
      await trainer.write(buffer, name, data);
  if (!resumed && average) for (const { name, data } of weights) await trainer.write("average", name, data);
}
