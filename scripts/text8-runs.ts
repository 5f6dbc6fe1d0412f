// Trains and judges one configuration of scripts/compare-text8.ts. Whatever is done stays done: a run goes on from its last saved
// state, and what was judged is read from its folder.
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { Window, WindowBound } from "../lib/evaluation/bound.js";
import { flowBounds, flowGains } from "../lib/evaluation/flow-bound.js";
import { windowsOfFiles } from "../lib/evaluation/windows.js";
import { writeAll, writeAtomically } from "../lib/files.js";
import { type AnyModel, type Engine, type TrainOptions, train } from "../lib/index.js";
import { type HeldOutMetric, readMetrics } from "../lib/training/metrics.js";
import { median } from "./card-parts.js";
import { type Configuration, readoutTraining, type Setup, trainings } from "./text8-configurations.js";

/** What was found out about a configuration. In nats; windows are those of test.txt, the same for all. */
export interface Result {
  parameters: number;
  trainingTokens: number;
  /** The median over the training's steps: a machine that was busy for a while does not count. */
  tokensPerSecond: number;
  /** Tokens of every window. */
  tokens: number[];
  /** Of every window: its negative log-likelihood, of flows the bound on it. */
  nats: number[];
  /** Of every flow, of every window: what it takes off what the ones before it leave; of the first, the bound it reaches alone. */
  gains: number[][];
}

export interface Work {
  engine: Engine;
  setup: Setup;
  signal: AbortSignal | undefined;
  /** Is told a line whenever there is something to say. */
  report: (line: string) => void;
}

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

/** What `find` finds out, from the configuration's folder where it has been found out before. */
async function kept<T>(name: string, what: string, { setup, report }: Work, find: () => Promise<T>): Promise<T> {
  const path = join(setup.runs, name, `${what}.json`);
  // Where the text lies changes nothing; that it is the same text, the runs themselves check.
  const { data: _, runs: __, ...settings } = setup;
  if (existsSync(path)) {
    const found = JSON.parse(await readFile(path, "utf8")) as { settings: object } & Record<string, T>;
    if (!isDeepStrictEqual(found.settings, settings))
      throw new Error(`${path} was found out with other settings: give these again, or another folder for the runs`);
    report(`${name}: ${what} found before`);
    return found[what]!;
  }
  const value = await find();
  const text = Buffer.from(`${JSON.stringify({ settings, [what]: value })}\n`);
  await writeAtomically(path, (handle) => writeAll(handle, text));
  return value;
}

/** Seconds between two lines of a running training. */
const REPORT_SECONDS = 15;

async function runStage({ name, stages }: Configuration, options: TrainOptions, work: Work): Promise<void> {
  const { engine, signal, report } = work;
  const stage = options.readouts ? ", readouts" : stages.length > 1 ? `, flow ${(options.stage ?? 0) + 1}` : "";
  let last = performance.now();
  for await (const event of train(engine, { ...options, signal })) {
    if (event.type === "held-out") {
      const bits = (event.bound / Math.LN2).toFixed(4);
      report(`${name}${stage}: step ${event.step}, valid.txt ${bits} bits per character`);
    }
    if (event.type !== "step" || performance.now() - last < 1000 * REPORT_SECONDS) continue;
    last = performance.now();
    const { step, loss, tokensPerSecond, eta } = event;
    const speed = `${Math.round(tokensPerSecond)} tokens/s, ${Math.round(eta / 60)} min left`;
    report(`${name}${stage}: step ${step} of ${options.steps}, loss ${loss.toFixed(3)} nats, ${speed}`);
  }
}

async function judge({ name }: Configuration, stages: readonly TrainOptions[], work: Work): Promise<Result> {
  const { engine, setup, signal, report } = work;
  await using model = await engine.load(stages.at(-1)!.run);
  const limit = setup.windows || undefined;
  const test = join(setup.data, "test.txt");
  // Without an end of the text, which is no character of it.
  const windows = windowsOfFiles([test], model.tokenizer!, { length: setup.length, limit });
  const { parameters } = model.info;
  const result: Result = { parameters, ...(await training(stages)), tokens: [], nats: [], gains: [] };
  let last = performance.now();
  for await (const { bound, gains } of judged(model, windows, signal)) {
    result.tokens.push(bound.tokens);
    result.nats.push(bound.nats);
    for (const [l, nats] of gains.entries()) {
      result.gains[l] ??= [];
      result.gains[l].push(nats);
    }
    if (performance.now() - last < 1000 * REPORT_SECONDS) continue;
    last = performance.now();
    report(`${name}: ${result.nats.length} windows of test.txt judged`);
  }
  return result;
}

async function training(stages: readonly TrainOptions[]) {
  const speeds: number[] = [];
  for (const { run } of stages)
    for (const metric of await readMetrics(join(run, "metrics.jsonl")))
      if (metric.type === "step") speeds.push(metric.tokensPerSecond);
  const trainingTokens = stages.reduce((sum, { steps, batch, length }) => sum + steps! * batch! * length!, 0);
  return { trainingTokens, tokensPerSecond: median(speeds) };
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
  if (model.family === "masked") throw new Error("a masked model is none of these configurations");
  if (model.family === "autoregressive") {
    for await (const bound of model.exact.likelihoods(windows, { signal })) yield { bound, gains: [] };
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
