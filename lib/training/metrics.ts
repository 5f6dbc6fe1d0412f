/**
 * metrics.jsonl: one JSON object per line, in the order of the steps. A resumed run first drops the lines of steps that its
 * state does not know (a run killed between two saves wrote them), so the file always tells the story of one unbroken run.
 */

import { readFile } from "node:fs/promises";
import { NoemaError } from "../errors.js";

export interface TrainingMetric {
  kind: "step";
  step: number;
  /** Nats per token: an unbiased, noisy estimate of the bound on the batch. */
  loss: number;
  rate: number;
  gradientNorm: number;
  tokensPerSecond: number;
  /** Seconds of the running session. */
  seconds: number;
}

export interface HeldOutMetric {
  kind: "held-out";
  step: number;
  /** Which parameters were judged. */
  source: "parameter" | "average";
  /** Nats per token, an upper bound on the negative log-likelihood, and its standard error over sequences. */
  bound: number;
  standardError: number;
  sequences: number;
  tokens: number;
  draws: number;
}

export interface SampleMetric {
  kind: "sample";
  step: number;
  prompt: string;
  seed: number;
  text: string;
}

export type Metric = TrainingMetric | HeldOutMetric | SampleMetric;

/** The metrics of a file; a line cut short by a kill is left out. Absent file: none. */
export async function readMetrics(path: string): Promise<Metric[]> {
  return (await readLines(path)).flatMap((line) => parse(line) ?? []);
}

/** The text that remains of a metrics file for a run that goes on after `lastStep`. */
export async function metricsUpTo(path: string, lastStep: number): Promise<string> {
  const kept = (await readLines(path)).filter((line) => (parse(line)?.step ?? Number.POSITIVE_INFINITY) <= lastStep);
  return kept.map((line) => `${line}\n`).join("");
}

async function readLines(path: string): Promise<string[]> {
  try {
    return (await readFile(path, "utf8")).split("\n").filter((line) => line !== "");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw new NoemaError("ERR_IO", `${path}: ${(error as Error).message}`, { path }, { cause: error });
  }
}

function parse(line: string): Metric | undefined {
  try {
    const value = JSON.parse(line) as Metric;
    return typeof value?.step === "number" && typeof value.kind === "string" ? value : undefined;
  } catch {
    return undefined;
  }
}
