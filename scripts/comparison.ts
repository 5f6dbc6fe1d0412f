// What the scripts share that train models of several kinds and compare them. Whatever is done stays done: a run goes on from its last
// saved state, and what was found out is read from its folder.
import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { interruptible } from "../lib/cli/interrupt.js";
import { writeAll, writeAtomically } from "../lib/files.js";
import { createEngine, type Engine, NoemaError, type TrainOptions, train } from "../lib/index.js";
import { readMetrics } from "../lib/training/metrics.js";
import { median } from "./card-parts.js";

/** Of a setup, what changes nothing about the figures. */
export interface Places {
  /** Where the text is. */
  data: string;
  /** Where runs and results go. */
  runs: string;
}

export interface Work<S extends Places = Places> {
  engine: Engine;
  setup: S;
  signal: AbortSignal | undefined;
  /** Is told a line whenever there is something to say. */
  report: (line: string) => void;
}

/** What a command is told. */
export interface Command<S extends Places> {
  setup: S;
  threads: number;
  /** Without an ending. */
  out: string;
}

/** Does the work on an engine of its own, until it is done or Ctrl-C comes, and writes the page and the figures that it makes. */
export async function write<S extends Places>(
  { setup, threads, out }: Command<S>,
  make: (work: Work<S>) => Promise<{ page: string; figures: object }>,
): Promise<void> {
  await using engine = await createEngine({ threads });
  const report = (line: string) => void process.stderr.write(`${line}\n`);
  await mkdir(setup.runs, { recursive: true });
  const { page, figures } = await interruptible("interrupted; all is saved, the same command goes on", (signal) =>
    make({ engine, setup, signal, report }),
  );
  const { data: _, runs: __, ...settings } = setup;
  await mkdir(dirname(out), { recursive: true });
  await writeFile(`${out}.md`, page);
  await writeFile(`${out}.json`, `${JSON.stringify({ ...settings, device: engine.device, ...figures }, null, 2)}\n`);
}

/** Being interrupted is no fault. */
export async function asCommand(run: () => Promise<void>): Promise<void> {
  await run().catch((error: unknown) => {
    if (!(error instanceof NoemaError) || error.code !== "ERR_ABORTED") throw error;
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  });
}

/** What flags say that are numbers. */
export function numbers<K extends string>(values: Readonly<Record<K, string>>): Record<K, number> {
  const read = (name: string, text: string) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isFinite(value)) throw new Error(`--${name}: "${text}" is no number`);
    return value;
  };
  const entries = Object.entries<string>(values).map(([name, text]) => [name, read(name, text)]);
  return Object.fromEntries(entries) as Record<K, number>;
}

/** Like 2,2,2. */
export function counts(name: string, text: string): number[] {
  const values = text.split(",").map(Number);
  if (values.every((count) => Number.isInteger(count) && count > 0)) return values;
  throw new Error(`--${name}: expected positive integers, like 2,2,2`);
}

/** What `find` finds out, from the folder of that name where it has been found out before. */
export async function kept<T>(name: string, what: string, work: Work, find: () => Promise<T>): Promise<T> {
  const path = join(work.setup.runs, name, `${what}.json`);
  // Where the text lies changes nothing; that it is the same text, the runs themselves check.
  const { data: _, runs: __, ...settings } = work.setup;
  if (existsSync(path)) {
    const found = JSON.parse(await readFile(path, "utf8")) as { settings: object } & Record<string, T>;
    if (!isDeepStrictEqual(found.settings, settings))
      throw new Error(`${path} was found out with other settings: give these again, or another folder for the runs`);
    work.report(`${name}: ${what} found before`);
    return found[what]!;
  }
  const value = await find();
  const text = Buffer.from(`${JSON.stringify({ settings, [what]: value })}\n`);
  await writeAtomically(path, (handle) => writeAll(handle, text));
  return value;
}

/** Seconds between two lines of work that goes on. */
const REPORT_SECONDS = 15;

/** Reports, but seldom. */
export function sparingly(report: Work["report"]): (line: () => string) => void {
  let last = performance.now();
  return (line) => {
    if (performance.now() - last < 1000 * REPORT_SECONDS) return;
    last = performance.now();
    report(line());
  };
}

/** Trains to the end. `heldOut` words a held-out figure, given in nats per token. */
export async function runTraining(
  name: string,
  options: TrainOptions,
  { engine, signal, report }: Work,
  heldOut: (nats: number) => string,
): Promise<void> {
  const progress = sparingly(report);
  for await (const event of train(engine, { ...options, signal })) {
    if (event.type === "held-out") report(`${name}: step ${event.step}, ${heldOut(event.bound)}`);
    if (event.type !== "step") continue;
    progress(() => {
      const { step, loss, tokensPerSecond, eta } = event;
      const speed = `${Math.round(tokensPerSecond)} tokens/s, ${Math.round(eta / 60)} min left`;
      return `${name}: step ${step} of ${options.steps}, loss ${loss.toFixed(3)} nats, ${speed}`;
    });
  }
}

export interface TrainingCost {
  trainingTokens: number;
  /** The median over the training's steps: a machine that was busy for a while does not count. */
  tokensPerSecond: number;
}

/** Of trainings that are done. */
export async function costOf(trainings: readonly TrainOptions[]): Promise<TrainingCost> {
  const speeds: number[] = [];
  for (const { run } of trainings)
    for (const metric of await readMetrics(join(run, "metrics.jsonl")))
      if (metric.type === "step") speeds.push(metric.tokensPerSecond);
  const trainingTokens = trainings.reduce((sum, { steps, batch, length }) => sum + steps! * batch! * length!, 0);
  return { trainingTokens, tokensPerSecond: median(speeds) };
}
