/**
 * metrics.jsonl: one JSON object per line, in the order of the steps. A resumed run first drops the lines of steps that its
 * state does not know (a run killed between two saves wrote them), so the file always tells the story of one unbroken run.
 */

import { appendFile } from "node:fs/promises";
import type { EstimateKind } from "../evaluation/bound.js";
import { ioError, readRegular, writeAll, writeAtomically } from "../files.js";

export interface TrainingMetric {
  type: "step";
  step: number;
  /** Nats per token: the batch's, or an unbiased, noisy estimate of the bound on it. */
  loss: number;
  rate: number;
  gradientNorm: number;
  tokensPerSecond: number;
  /** Seconds of the running session. */
  seconds: number;
}

export interface HeldOutMetric {
  type: "held-out";
  step: number;
  /** Which parameters were judged. */
  source: "parameter" | "average";
  /** What `bound` is; of readouts, their mean loss. Left out by versions that knew upper bounds only. */
  kind?: EstimateKind;
  /** Nats per token, the negative log-likelihood or an upper bound on it, and its standard error over sequences. */
  bound: number;
  standardError: number;
  sequences: number;
  tokens: number;
  /** Of every sequence; 0 where nothing is drawn. */
  draws: number;
  /** Of a flow stack. */
  flows?: FlowMonitors;
  /** Of a thought model. */
  thought?: ThoughtMonitors;
  /** Of a flow stack's readouts, which `bound` is the mean loss of. */
  readouts?: ReadoutMonitors;
}

/** What the bound is made of, in nats per token. */
export interface ThoughtMonitors {
  crossEntropy: number;
  kl: number;
  /** The bound weighted by importance. */
  importanceWeighted: number;
}

/** How well the states above the data's are read, level by level from 1 on. */
export interface ReadoutMonitors {
  /** Nats per token. */
  crossEntropy: number[];
  /** Share of tokens whose likeliest reading is right. */
  accuracy: number[];
}

/** How a stack of flows does, over the held-out text. */
export interface FlowMonitors {
  /** Nats per token that each flow takes off what the ones before it leave; of the first, the bound it reaches alone. */
  gains: number[];
  /** Mean square of every state's scalars: noise that is right has 1. The first is that of the data's latents. */
  meanSquares: number[];
  /** Fourth moment over the squared second, of every state: noise that is right has 3. */
  kurtosis: number[];
  /**
   * Least distance of two tokens' means over the sum of their deviations; with more than 8,192 tokens among every n-th
   * of them, n = ceil(V / 8192): some other two may lie closer.
   */
  separation: number;
}

export interface SampleMetric {
  type: "sample";
  step: number;
  prompt: string;
  seed: number;
  text: string;
}

export type Metric = TrainingMetric | HeldOutMetric | SampleMetric;

/** A run's metrics, in memory and in the file. */
export class MetricsLog {
  readonly path: string;
  readonly #metrics: Metric[];
  readonly #unwritten: Metric[] = [];
  /** Whether the file holds all that came before. Not so at first (lines may be dropped) and after a failed append: then it is rewritten. */
  #whole = false;

  private constructor(path: string, metrics: Metric[]) {
    this.path = path;
    this.#metrics = metrics;
  }

  /** The log of a run that goes on after `lastStep`: later lines are forgotten. */
  static async open(path: string, lastStep: number): Promise<MetricsLog> {
    return new MetricsLog(
      path,
      (await readMetrics(path)).filter((metric) => metric.step <= lastStep),
    );
  }

  get all(): readonly Metric[] {
    return this.#metrics;
  }

  has(type: Metric["type"], step: number): boolean {
    return this.#metrics.findLast((metric) => metric.step <= step && metric.type === type)?.step === step;
  }

  add(metric: Metric): void {
    this.#metrics.push(metric);
    this.#unwritten.push(metric);
  }

  /** Writes what was added; after a failure everything is still in memory, and the next call writes it. */
  async flush(): Promise<void> {
    const text = (this.#whole ? this.#unwritten : this.#metrics)
      .map((metric) => `${JSON.stringify(metric)}\n`)
      .join("");
    try {
      if (this.#whole) {
        this.#whole = false;
        await appendFile(this.path, text);
      } else {
        await writeAtomically(this.path, (handle) => writeAll(handle, Buffer.from(text)));
      }
      this.#whole = true;
      this.#unwritten.length = 0;
    } catch (error) {
      throw ioError("writing metrics", this.path, error);
    }
  }
}

/** The metrics of a file; a line cut short by a kill is left out. Absent file: none. */
export async function readMetrics(path: string): Promise<Metric[]> {
  try {
    return (await readRegular(path, "ERR_IO"))
      .toString()
      .split("\n")
      .flatMap((line) => parse(line) ?? []);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw ioError("reading", path, error);
  }
}

function parse(line: string): Metric | undefined {
  try {
    const value = JSON.parse(line) as Metric;
    return typeof value?.step === "number" && typeof value.type === "string" ? value : undefined;
  } catch {
    return undefined;
  }
}
