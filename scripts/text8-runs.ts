// Trains and judges one configuration of scripts/compare-text8.ts.
import { join } from "node:path";
import type { Window, WindowBound } from "../lib/evaluation/bound.js";
import { flowBounds, flowGains } from "../lib/evaluation/flow-bound.js";
import { windowsOfFiles } from "../lib/evaluation/windows.js";
import type { AnyModel, TrainOptions } from "../lib/index.js";
import { type HeldOutMetric, readMetrics } from "../lib/training/metrics.js";
import { type Work as AnyWork, costOf, kept, runTraining, sparingly, type TrainingCost } from "./comparison.js";
import { type Configuration, readoutTraining, type Setup, trainings } from "./text8-configurations.js";

/** What was found out about a configuration. In nats; windows are those of test.txt, the same for all. */
export interface Result extends TrainingCost {
  parameters: number;
  /** Tokens of every window. */
  tokens: number[];
  /** Of every window: its negative log-likelihood, of flows the bound on it. */
  nats: number[];
  /** Of every flow, of every window: what it takes off what the ones before it leave; of the first, the bound it reaches alone. */
  gains: number[][];
}

export type Work = AnyWork<Setup>;

/** The configuration's result, from its folder where it has been found out before. */
export function resultOf(configuration: Configuration, work: Work): Promise<Result> {
  return kept(configuration.name, "result", work, async () => {
    const stages = trainings(configuration, work.setup);
    for (const options of stages) await runStage(configuration, options, work);
    return judge(configuration, stages, work);
  });
}

/** Share of held-out characters that every state above the data's, from the first flow's on, reads as: what a trained readout makes of it. */
export async function readingsOf(configuration: Configuration, work: Work): Promise<number[] | undefined> {
  if (configuration.stages.flat().length < 2) return undefined;
  return kept(configuration.name, "readings", work, async () => {
    const options = readoutTraining(configuration, work.setup);
    await runStage(configuration, options, work);
    const metrics = await readMetrics(join(options.run, "metrics.jsonl"));
    const last = metrics.findLast((metric) => metric.type === "held-out" && metric.readouts !== undefined);
    return (last as HeldOutMetric).readouts!.accuracy;
  });
}

function runStage({ name, stages }: Configuration, options: TrainOptions, work: Work): Promise<void> {
  const stage = options.readouts ? ", readouts" : stages.length > 1 ? `, flow ${(options.stage ?? 0) + 1}` : "";
  const heldOut = (nats: number) => `valid.txt ${(nats / Math.LN2).toFixed(4)} bits per character`;
  return runTraining(`${name}${stage}`, options, work, heldOut);
}

async function judge({ name }: Configuration, stages: readonly TrainOptions[], work: Work): Promise<Result> {
  const { engine, setup, signal, report } = work;
  await using model = await engine.load(stages.at(-1)!.run);
  const limit = setup.windows || undefined;
  const test = join(setup.data, "test.txt");
  // Without an end of the text, which is no character of it.
  const windows = windowsOfFiles([test], model.tokenizer!, { length: setup.length, limit });
  const { parameters } = model.info;
  const result: Result = { parameters, ...(await costOf(stages)), tokens: [], nats: [], gains: [] };
  const progress = sparingly(report);
  for await (const { bound, gains } of judged(model, windows, signal)) {
    result.tokens.push(bound.tokens);
    result.nats.push(bound.nats);
    for (const [l, nats] of gains.entries()) {
      result.gains[l] ??= [];
      result.gains[l].push(nats);
    }
    progress(() => `${name}: ${result.nats.length} windows of test.txt judged`);
  }
  return result;
}

interface Judged {
  bound: WindowBound;
  /** Nats of every flow, for the window. */
  gains: number[];
}

async function* judged(
  model: AnyModel,
  windows: AsyncIterable<Window>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Judged> {
  if (model.family === "masked" || model.family === "thought")
    throw new Error(`a ${model.family} model is none of these configurations`);
  if (model.family === "autoregressive") {
    for await (const bound of model.scorer.likelihoods(windows, { signal })) yield { bound, gains: [] };
    return;
  }
  const { config, native } = model;
  const encode: typeof native.encode = (request) => native.encode(request);
  let gains: number[] = [];
  const observe = (pass: Parameters<typeof flowGains>[0]) => {
    gains = flowGains(pass);
  };
  // One draw of latents per window, as the paper's figures have: the errors over windows include those of the draws.
  for await (const bound of flowBounds({ config, encode, observe }, windows, { draws: 1, signal }))
    yield { bound, gains };
}
