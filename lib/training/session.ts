/** An open run: the trainer with its buffers, the data, and what one step, one evaluation and one save do. */

import { join } from "node:path";
import { writeCheckpoint } from "../checkpoint/folder.js";
import { NoemaError } from "../errors.js";
import type { Window } from "../evaluation/bound.js";
import { writeAll, writeAtomically } from "../files.js";
import { lossCurve } from "./curve.js";
import type { HeldOutMetric, MetricsLog, SampleMetric, TrainingMetric } from "./metrics.js";
import type { Objective } from "./objective.js";
import type { TrainSettings } from "./options.js";
import { learningRate } from "./schedule.js";
import { saveState, type TrainingState } from "./state.js";

/** The batch of a step: a pure function of the step. */
export interface BatchSource {
  /** [batch * length]; steps count from 1. */
  batch(step: number): Promise<Int32Array>;
  close(): Promise<void>;
}

export interface SessionParts {
  run: string;
  settings: TrainSettings;
  objective: Objective;
  data: BatchSource;
  heldOut: readonly Window[];
  samplePrompts: readonly string[];
  metrics: MetricsLog;
  /** tokenizer.json, copied into the checkpoint. */
  tokenizerPath: string;
  /** Where the run stands. */
  state: TrainingState;
  /** Whether `state` came from the disk. */
  resumed: boolean;
}

export class Session {
  readonly parts: SessionParts;
  #state: TrainingState;
  #savedStep: number;
  #sessionSeconds = 0;
  #sessionSteps = 0;

  constructor(parts: SessionParts) {
    this.parts = parts;
    this.#state = parts.state;
    this.#savedStep = parts.resumed ? parts.state.step : -1;
  }

  get step(): number {
    return this.#state.step;
  }

  get savedStep(): number {
    return this.#savedStep;
  }

  /** The weights that evaluation, samples and the checkpoint use. */
  get source(): "parameter" | "average" {
    return this.parts.settings.ema > 0 ? "average" : "parameter";
  }

  /** Seconds that `steps` more steps will take, judging by this session's. */
  estimate(steps: number): number {
    return this.#sessionSteps === 0 ? Number.NaN : (this.#sessionSeconds / this.#sessionSteps) * steps;
  }

  /** One optimiser step. When it fails the parameters are those of the step before. */
  async advance(): Promise<TrainingMetric> {
    const { settings, metrics } = this.parts;
    const step = this.step + 1;
    const started = performance.now();
    const rate = learningRate(
      { ...settings, shape: settings.schedule, peak: settings.rate, decay: fallLength(settings) },
      step,
    );
    const { loss, gradientNorm } = await this.#guarded(step, rate);
    const seconds = (performance.now() - started) / 1000;
    const tokens = settings.batch * settings.length;
    this.#sessionSeconds += seconds;
    this.#sessionSteps++;
    this.#state = { ...this.#state, step, tokens: this.#state.tokens + tokens, seconds: this.#state.seconds + seconds };
    const metric: TrainingMetric = {
      ...{ type: "step", step, loss, rate, gradientNorm },
      ...{ tokensPerSecond: tokens / seconds, seconds: this.#state.seconds },
    };
    metrics.add(metric);
    return metric;
  }

  async #guarded(step: number, rate: number): Promise<{ loss: number; gradientNorm: number }> {
    try {
      const loss = await this.#accumulate(step);
      return { loss, gradientNorm: await this.#update(step, rate) };
    } catch (error) {
      await this.parts.objective.trainer.discard().catch(() => undefined);
      if (!(error instanceof NoemaError) || error.code !== "ERR_NON_FINITE") throw error;
      const kept = this.#savedStep < 0 ? "nothing was saved yet" : `the state of step ${this.#savedStep} is kept`;
      const details = { ...error.details, step, savedStep: this.#savedStep };
      throw new NoemaError("ERR_NON_FINITE", `step ${step}: ${error.message}; ${kept}`, details, { cause: error });
    }
  }

  async #accumulate(step: number): Promise<number> {
    const { data, objective } = this.parts;
    const loss = await objective.accumulate(await data.batch(step), step);
    if (!Number.isFinite(loss)) throw new NoemaError("ERR_NON_FINITE", `the loss is ${loss}`);
    return loss;
  }

  async #update(step: number, rate: number): Promise<number> {
    const { beta1, beta2, epsilon, weightDecay, clip, ema } = this.parts.settings;
    const { gradientNorm } = await this.parts.objective.trainer.step({
      ...{ step, rate, beta1, beta2, epsilon, weightDecay, maxNorm: clip },
      // The weights of the losses already divide by the whole batch.
      gradientScale: 1,
      // Early on, a long memory would hold mostly the initial weights: the average's horizon grows with the run.
      emaDecay: ema > 0 ? Math.min(ema, (1 + step) / (10 + step)) : 0,
    });
    await this.parts.objective.settle?.();
    return gradientNorm;
  }

  async evaluate(signal?: AbortSignal): Promise<HeldOutMetric> {
    const { heldOut, metrics, objective } = this.parts;
    const source = this.source;
    const found = await objective.heldOut(heldOut, source, signal);
    const metric: HeldOutMetric = { type: "held-out", step: this.step, source, kind: objective.kind, ...found };
    metrics.add(metric);
    await metrics.flush();
    return metric;
  }

  async *samples(signal?: AbortSignal): AsyncGenerator<SampleMetric> {
    const { objective, samplePrompts, metrics } = this.parts;
    await objective.trainer.publish(this.source);
    for (const [seed, prompt] of samplePrompts.entries()) {
      signal?.throwIfAborted();
      const metric: SampleMetric = {
        type: "sample",
        step: this.step,
        prompt,
        seed,
        text: await objective.sample(prompt, seed),
      };
      metrics.add(metric);
      yield metric;
    }
  }

  /** Metrics, state, checkpoint and curve; false when this step's are there already. ERR_IO leaves all in memory. */
  async save(): Promise<boolean> {
    await this.parts.metrics.flush();
    if (this.#savedStep === this.step) return false;
    const { run, objective, settings } = this.parts;
    await saveState(run, this.#state, objective.trainer, { average: settings.ema > 0 });
    await this.publishFiles();
    this.#savedStep = this.step;
    return true;
  }

  /** What others read: the checkpoint and the curve. */
  async publishFiles(): Promise<void> {
    await this.#exportCheckpoint();
    await writeCurve(this.parts);
  }

  /** The run's folder is a checkpoint that loads like any other. */
  async #exportCheckpoint(): Promise<void> {
    const { run, objective, metrics, tokenizerPath } = this.parts;
    const { trainer } = objective;
    const found = metrics.all.findLast((metric) => metric.type === "held-out");
    const config = objective.described?.(found) ?? objective.config;
    const tensors = trainer.names().map(({ name }) => [name, () => trainer.read(this.source, name)] as const);
    await writeCheckpoint(run, { config, tensors: new Map(tensors), dtype: "BF16", tokenizer: tokenizerPath });
  }

  async dispose(): Promise<void> {
    this.parts.objective.dispose();
    await this.parts.data.close();
  }
}

/** The stable schedule's fall takes a fifth of the run unless told otherwise. */
function fallLength({ decay, steps }: TrainSettings): number {
  return decay || Math.ceil(steps / 5);
}

async function writeCurve({ run, metrics, objective }: SessionParts): Promise<void> {
  const svg = Buffer.from(lossCurve(metrics.all, { kind: objective.kind }));
  await writeAtomically(join(run, "curve.svg"), (handle) => writeAll(handle, svg));
}
