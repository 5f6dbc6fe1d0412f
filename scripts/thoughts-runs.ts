// Trains and judges one model of scripts/compare-thoughts.ts.
import type { WindowBound } from "../lib/evaluation/bound.js";
import { windowsOfFiles } from "../lib/evaluation/windows.js";
import type { AnyModel } from "../lib/index.js";
import { type Work as AnyWork, costOf, kept, runTraining, sparingly, type TrainingCost } from "./comparison.js";
import { type Configuration, type ModelSetup, type Setup, trainingOf } from "./thoughts-configurations.js";

/** What windows cost, in nats, each for itself: differences of models are then taken window by window. */
export interface Scored {
  /** That were scored. */
  tokens: number[];
  /**
   * The baseline's negative log-likelihoods. Of thought models the mean over draws that the fit has not seen: of whole windows the
   * NELBO, of continuations their cross-entropy.
   */
  nats: number[];
  /** Of thought models alone. */
  thought?: ThoughtScored;
}

export interface ThoughtScored {
  crossEntropy: number[];
  kl: number[];
  /** Over the draws: of whole windows IWAE-K, of continuations -log of the mean likelihood. */
  importanceWeighted: number[];
  /** Of whole windows, and of no use but for comparison with published figures: no bound. */
  same_noise_nelbo?: number[];
}

export interface Trained extends TrainingCost {
  parameters: number;
  /** Of them, those of embedding and head, which thought models share and the baseline does not. */
  embeddings: number;
}

export interface Result extends Trained {
  whole: Scored;
  /** What follows the first tokens of windows. */
  continued: Scored;
}

export type Work = AnyWork<Setup>;

/** The model's result, from its folder where it has been found out before. */
export async function resultOf(configuration: Configuration, { setup, ...others }: Work): Promise<Result> {
  // What other cells the table has changes nothing about this one.
  const { fast: _, latents: __, ...own } = setup;
  const work: AnyWork<ModelSetup> = { ...others, setup: own };
  const { name } = configuration;
  const trained = await kept(name, "training", work, () => trainedModel(configuration, work));
  const whole = await kept(name, "bounds", work, () => judged(configuration, work, 0));
  const continued = await kept(name, "continuations", work, () => judged(configuration, work, own.prefix));
  return { ...trained, whole, continued };
}

async function trainedModel(configuration: Configuration, work: AnyWork<ModelSetup>): Promise<Trained> {
  const options = trainingOf(configuration, work.setup);
  const most = configuration.cell ? "at most " : "";
  const heldOut = (nats: number) => `held-out text ${most}${nats.toFixed(4)} nats per token`;
  await runTraining(configuration.name, options, work, heldOut);
  await using model = await work.engine.load(options.run);
  const { vocabSize, hiddenSize } = model.config;
  const tied = "tiedEmbeddings" in model.config && model.config.tiedEmbeddings;
  const embeddings = vocabSize * hiddenSize * (tied ? 1 : 2);
  return { parameters: model.info.parameters, embeddings, ...(await costOf([options])) };
}

async function judged(configuration: Configuration, work: AnyWork<ModelSetup>, prefix: number): Promise<Scored> {
  const { engine, setup, signal, report } = work;
  const { run, heldOut = [] } = trainingOf(configuration, setup);
  await using model = await engine.load(run);
  const scored: Scored = { tokens: [], nats: [] };
  const progress = sparingly(report);
  for await (const bound of boundsOf(model, heldOut, { setup, signal, prefix })) {
    add(scored, bound);
    progress(() => `${configuration.name}: ${scored.nats.length} held-out windows judged`);
  }
  return scored;
}

interface Judging extends Pick<AnyWork<ModelSetup>, "setup" | "signal"> {
  prefix: number;
}

/** Windows are cut as `evaluate` cuts them. */
function boundsOf(
  model: AnyModel,
  files: readonly string[],
  { setup, signal, prefix }: Judging,
): AsyncGenerator<WindowBound> {
  if (model.family !== "autoregressive" && model.family !== "thought")
    throw new Error(`a ${model.family} model is none of these`);
  const { length, draws, windows } = setup;
  const cut = { length, prefix, limit: windows || undefined, eosId: model.config.eosTokenId };
  const cutWindows = windowsOfFiles(files, model.tokenizer!, cut);
  if (model.family === "autoregressive") return model.scorer.likelihoods(cutWindows, { signal });
  return model.scorer.bounds(cutWindows, { draws, sameNoise: prefix === 0, signal });
}

function add(scored: Scored, { tokens, nats, importanceWeighted, thought }: WindowBound): void {
  scored.tokens.push(tokens);
  scored.nats.push(nats);
  if (!thought) return;
  scored.thought ??= { crossEntropy: [], kl: [], importanceWeighted: [] };
  const own = scored.thought;
  own.crossEntropy.push(thought.crossEntropy);
  own.kl.push(thought.kl);
  own.importanceWeighted.push(importanceWeighted!);
  if (thought.sameNoise === undefined) return;
  own.same_noise_nelbo ??= [];
  own.same_noise_nelbo.push(thought.sameNoise);
}
