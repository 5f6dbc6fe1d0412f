/** An open run: the trainer with its buffers, the data, and what one step, one evaluation and one save do. */

import { join } from "node:path";
import type { MaskedConfig } from "../checkpoint/config.js";
import { writeCheckpoint } from "../checkpoint/folder.js";
import { NoemaError } from "../errors.js";
import { type Window, windowBounds } from "../evaluation/bound.js";
import { BoundTotals } from "../evaluation/statistics.js";
import { writeAll, writeAtomically } from "../files.js";
import type { NativeMaskedModel, NativeTrainer } from "../native/addon.js";
import { corrupt } from "./corruption.js";
import { lossCurve } from "./curve.js";
import type { HeldOutMetric, MetricsLog, SampleMetric, TrainingMetric } from "./metrics.js";
import type { TrainSettings } from "./options.js";
import { learningRate } from "./schedule.js";
import { saveState, type TrainingState } from "./state.js";

/** The batch of a step: a pure function of the step. */
export interface BatchSource {
  /** [batch * length]; steps count from 1. */
  batch(step: number): Promise<Int32Array>;
  close(): Promise<void>;
}

/** Writes a text with the model as it stands published. */
export type Sampler = (prompt: string, seed: number) => Promise<string>;

export interface SessionParts {
  run: string;
  config: MaskedConfig;
  settings: TrainSettings;
  model: NativeMaskedModel;
  trainer: NativeTrainer;
  data: BatchSource;
  heldOut: readonly Window[];
  sampler: Sampler;
  samplePrompts: readonly string[];
  metrics: MetricsLog;
  /** tokenizer.json, copied into the checkpoint. */
  tokenizerPath: string;
  /** Where the run stands. */
  state: TrainingState;
  /** Whether `state` came from the disk. */
  resumed: boolean;
}

/** Held-out masks never change, whatever the run's seed, so that curves of different runs compare. */
const HELD_OUT_SEED = 271828;

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
      await this.parts.trainer.discard().catch(() => undefined);
      if (!(error instanceof NoemaError) || error.code !== "ERR_NON_FINITE") throw error;
      const kept = this.#savedStep < 0 ? "nothing was saved yet" : `the state of step ${this.#savedStep} is kept`;
      const details = { ...error.details, step, savedStep: this.#savedStep };
      throw new NoemaError("ERR_NON_FINITE", `step ${step}: ${error.message}; ${kept}`, details, { cause: error });
    }
  }

  /** Adds the gradients of the step's batch, a few sequences at a time; the batch's loss in nats per token. */
  async #accumulate(step: number): Promise<number> {
    const { config, data, settings, trainer } = this.parts;
    const { batch, length, microBatch, seed, times } = settings;
    const ids = await data.batch(step);
    let loss = 0;
    for (let firstRow = 0; firstRow < batch; firstRow += microBatch) {
      const part = ids.subarray(firstRow * length, Math.min(batch, firstRow + microBatch) * length);
      const clean = { ids: part, length, firstRow, totalRows: batch };
      const {
        hidden: _,
        probabilities: __,
        ...rows
      } = corrupt(clean, step, { seed, maskId: config.maskTokenId, times });
      const request = { ...rows, batch: part.length / length, length, excludedId: config.maskTokenId };
      loss += (await trainer.accumulate(request)).lossSum;
    }
    if (!Number.isFinite(loss)) throw new NoemaError("ERR_NON_FINITE", `the loss is ${loss}`);
    return loss;
  }

  async #update(step: number, rate: number): Promise<number> {
    const { beta1, beta2, epsilon, weightDecay, clip, ema } = this.parts.settings;
    const { gradientNorm } = await this.parts.trainer.step({
      ...{ step, rate, beta1, beta2, epsilon, weightDecay, maxNorm: clip },
      // The weights of the losses already divide by the whole batch.
      gradientScale: 1,
      // Early on, a long memory would hold mostly the initial weights: the average's horizon grows with the run.
      emaDecay: ema > 0 ? Math.min(ema, (1 + step) / (10 + step)) : 0,
    });
    return gradientNorm;
  }

  async evaluate(signal?: AbortSignal): Promise<HeldOutMetric> {
    const { config, heldOut, settings, trainer, metrics } = this.parts;
    const source = this.source;
    const scorer = {
      maskId: config.maskTokenId,
      losses: (request: Parameters<NativeMaskedModel["losses"]>[0]) => trainer.losses({ ...request, source }),
    };
    const totals = new BoundTotals();
    const options = { draws: settings.evaluateDraws, seed: HELD_OUT_SEED, signal };
    for await (const bound of windowBounds(scorer, heldOut, options)) totals.add(bound);
    const { bound, standardError, sequences, tokens } = totals.summary(settings.evaluateDraws);
    const draws = settings.evaluateDraws;
    const metric: HeldOutMetric = {
      type: "held-out",
      step: this.step,
      source,
      bound,
      standardError,
      sequences,
      tokens,
      draws,
    };
    metrics.add(metric);
    await metrics.flush();
    return metric;
  }

  async *samples(signal?: AbortSignal): AsyncGenerator<SampleMetric> {
    const { trainer, sampler, samplePrompts, metrics } = this.parts;
    await trainer.publish(this.source);
    for (const [seed, prompt] of samplePrompts.entries()) {
      signal?.throwIfAborted();
      const metric: SampleMetric = { type: "sample", step: this.step, prompt, seed, text: await sampler(prompt, seed) };
      metrics.add(metric);
      yield metric;
    }
  }

  /** Metrics, state, checkpoint and curve; false when this step's are there already. ERR_IO leaves all in memory. */
  async save(): Promise<boolean> {
    await this.parts.metrics.flush();
    if (this.#savedStep === this.step) return false;
    const { run, trainer, settings } = this.parts;
    await saveState(run, this.#state, trainer, { average: settings.ema > 0 });
    await this.publishFiles();
    this.#savedStep = this.step;
    return true;
  }

  /** What others read: the checkpoint and the curve. */
  async publishFiles(): Promise<void> {
    await this.#exportCheckpoint();
    await writeCurve(this.parts.run, this.parts.metrics);
  }

  /** The run's folder is a checkpoint that loads like any other. */
  async #exportCheckpoint(): Promise<void> {
    const { run, trainer, config, tokenizerPath } = this.parts;
    const tensors = trainer.names().map(({ name }) => [name, () => trainer.read(this.source, name)] as const);
    await writeCheckpoint(run, { config, tensors: new Map(tensors), dtype: "BF16", files: [tokenizerPath] });
  }

  async dispose(): Promise<void> {
    const { trainer, model, data } = this.parts;
    trainer.dispose();
    model.dispose();
    await data.close();
  }
}

/** The stable schedule's fall takes a fifth of the run unless told otherwise. */
function fallLength({ decay, steps }: TrainSettings): number {
  return decay || Math.ceil(steps / 5);
}

async function writeCurve(run: string, metrics: MetricsLog): Promise<void> {
  const svg = Buffer.from(lossCurve(metrics.all));
  await writeAtomically(join(run, "curve.svg"), (handle) => writeAll(handle, svg));
}
