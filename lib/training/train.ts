/** `train`: a run as an async iterable of what happens in it. */

import { NoemaError } from "../errors.js";
import type { HeldOutMetric, SampleMetric, TrainingMetric } from "./metrics.js";
import { resolveOptions, type TrainOptions, type TrainSettings } from "./options.js";
import { type OpenedSession, openSession, type TrainingEngine } from "./prepare.js";
import type { Session } from "./session.js";

export type TrainingEvent =
  | {
      type: "start";
      /** Steps done before; above 0 when the run goes on from a saved state. */
      step: number;
      steps: number;
      parameters: number;
      corpusTokens: number;
    }
  | (TrainingMetric & {
      /** Seconds to the last step; NaN before the first. */
      eta: number;
    })
  | HeldOutMetric
  | SampleMetric
  | { type: "save"; step: number; seconds: number }
  | {
      type: "finish";
      step: number;
      /** "stopped": at `stopAt`, before the run's last step. */
      reason: "complete" | "stopped";
    };

/** See lib/train.ts. */
export function train(engine: TrainingEngine, options: TrainOptions): Training {
  return new Training(engine, options);
}

export class Training implements AsyncIterable<TrainingEvent>, AsyncDisposable {
  readonly #engine: TrainingEngine;
  readonly #options: TrainOptions;
  #opened: OpenedSession | undefined;
  #state: "idle" | "running" | "over" = "idle";

  /** @internal Use `train`. */
  constructor(engine: TrainingEngine, options: TrainOptions) {
    this.#engine = engine;
    this.#options = options;
  }

  [Symbol.asyncIterator](): AsyncGenerator<TrainingEvent, void, void> {
    return this.#events();
  }

  /** Whether the run is in memory: after ERR_IO while saving it can be iterated again. */
  get kept(): boolean {
    return this.#opened !== undefined;
  }

  /** Frees the run's memory without saving. */
  async dispose(): Promise<void> {
    const opened = this.#opened;
    this.#state = "over";
    this.#opened = undefined;
    try {
      await opened?.session.dispose();
    } finally {
      await opened?.lock.release();
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async *#events(): AsyncGenerator<TrainingEvent, void, void> {
    if (this.#state === "over")
      throw new NoemaError("ERR_DISPOSED", "this training is over; call train again to go on");
    if (this.#state === "running")
      throw new NoemaError("ERR_INVALID_ARGUMENT", "this training is being iterated already");
    this.#state = "running";
    let outcome: "left" | "done" | "failed" | "kept" = "left";
    try {
      yield* this.#run();
      outcome = "done";
    } catch (error) {
      outcome = this.#opened && error instanceof NoemaError && error.code === "ERR_IO" ? "kept" : "failed";
      throw error;
    } finally {
      await this.#close(outcome);
    }
  }

  async #close(outcome: "left" | "done" | "failed" | "kept"): Promise<void> {
    this.#state = "idle";
    if (outcome === "left") await this.#opened?.session.save();
    if (outcome !== "kept") await this.dispose();
  }

  async *#run(): AsyncGenerator<TrainingEvent, void, void> {
    const settings = resolveOptions(this.#options);
    const { signal } = this.#options;
    signal?.throwIfAborted();
    const again = this.#opened !== undefined;
    const { session, corpusTokens } = await this.#open(settings);
    const { objective } = session.parts;
    if (!again) {
      const { parameters } = objective;
      yield { type: "start", step: session.step, steps: settings.steps, parameters, corpusTokens };
    }
    try {
      yield* this.#steps(session);
    } catch (error) {
      if (signal?.aborted && error === signal.reason && session.step > 0) await session.save();
      throw error;
    }
    // With nothing to save, the files may still be older than the state: the run was killed between the two.
    if (session.savedStep === session.step) await session.publishFiles();
    yield* saved(session);
    yield { type: "finish", step: session.step, reason: session.step >= settings.steps ? "complete" : "stopped" };
  }

  async *#steps(session: Session): AsyncGenerator<TrainingEvent, void, void> {
    const { signal } = this.#options;
    const { settings } = session.parts;
    yield* this.#milestones(session);
    while (session.step < settings.stopAt) {
      signal?.throwIfAborted();
      const metric = await session.advance();
      yield { ...metric, eta: session.estimate(settings.steps - session.step) };
      signal?.throwIfAborted();
      yield* this.#milestones(session);
    }
  }

  async #open(settings: TrainSettings): Promise<OpenedSession> {
    this.#opened ??= await openSession(this.#engine, this.#options, settings);
    return this.#opened;
  }

  /** What is due after a step. What a resumed run finds in its metrics was done before it was stopped. */
  async *#milestones(session: Session): AsyncGenerator<TrainingEvent, void, void> {
    const { settings, metrics, heldOut, samplePrompts } = session.parts;
    const due = (every: number) => every > 0 && (session.step % every === 0 || session.step === settings.steps);
    if (heldOut.length > 0 && due(settings.evaluateEvery) && !metrics.has("held-out", session.step))
      yield await session.evaluate(this.#options.signal);
    const wantsSamples = samplePrompts.length > 0 && session.step > 0 && due(settings.sampleEvery);
    if (wantsSamples && !metrics.has("sample", session.step)) yield* session.samples(this.#options.signal);
    if (session.step > 0 && due(settings.saveEvery)) yield* saved(session);
  }
}

async function* saved(session: Session): AsyncGenerator<TrainingEvent, void, void> {
  const started = performance.now();
  if (await session.save()) yield { type: "save", step: session.step, seconds: (performance.now() - started) / 1000 };
}
