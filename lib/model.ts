/** What the loaded models of all families have in common: they belong to an engine and score texts, and most write them. */

import { cancellable } from "./cancellation.js";
import type { Family, ModelConfig } from "./checkpoint/config.js";
import type { Score, ScoreOptions } from "./evaluation/score.js";
import { Generation, type GenerationResult, type Work } from "./generation.js";
import { disposed, Handle } from "./handle.js";
import type { Addon, NativeCancellation, Precision } from "./native/addon.js";
import type { Tokenizer } from "./tokenizer/tokenizer.js";

/** @internal What a model needs of its engine. */
export interface ModelOwner {
  readonly addon: Addon;
  /** Takes a place among the engine's requests, or throws ERR_QUEUE_FULL. */
  admit(): () => void;
  release(model: Handle): void;
}

/** What the loaded models of all families are in native memory. */
export interface NativeModel {
  info(): { parameters: number; weightBytes: number; precision: Precision };
  dispose(): void;
}

/** @internal */
export interface ModelParts<N extends NativeModel, C extends ModelConfig> {
  readonly native: N;
  readonly config: C;
  readonly tokenizer: Tokenizer | undefined;
  readonly folder: string;
  readonly owner: ModelOwner;
}

/** What is told of a model of any family. */
export interface ModelInfo<C extends ModelConfig> {
  layout: C["layout"];
  folder: string;
  parameters: number;
  weightBytes: number;
  /** Of weights in products. */
  precision: Precision;
  vocabSize: number;
  maxPositions: number;
  eosTokenId?: number;
  config: Readonly<C>;
}

export abstract class Model<N extends NativeModel, C extends ModelConfig> extends Handle {
  abstract readonly family: Family;
  /** From the folder's tokenizer.json; undefined where there is none (then prompts are token ids). */
  readonly tokenizer: Tokenizer | undefined;
  readonly #parts: ModelParts<N, C>;

  /** @internal Use `engine.load`. */
  constructor(parts: ModelParts<N, C>) {
    super("model");
    this.#parts = parts;
    this.tokenizer = parts.tokenizer;
  }

  /** @internal For training and scoring. */
  get native(): N {
    this.check();
    return this.#parts.native;
  }

  /** @internal */
  get config(): Readonly<C> {
    return this.#parts.config;
  }

  /** A text's negative log-likelihood in nats, or an upper bound on it with the standard error of its estimate. */
  abstract score(text: string | ArrayLike<number>, options?: ScoreOptions): Promise<Score>;

  protected get commonInfo(): ModelInfo<C> {
    const { config, folder } = this.#parts;
    const { layout, vocabSize, maxPositions, eosTokenId } = config;
    const eos = eosTokenId === undefined ? {} : { eosTokenId };
    const sizes = { vocabSize, maxPositions, ...eos };
    return { layout, folder, ...this.native.info(), ...sizes, config: structuredClone(config) };
  }

  protected createCancellation(): NativeCancellation {
    return this.#parts.owner.addon.createCancellation();
  }

  /** A native call that the signal ends, whether it runs or waits. */
  protected ended<R>(signal: AbortSignal | undefined, call: (by: NativeCancellation) => Promise<R>): Promise<R> {
    return cancellable(this.#parts.owner.addon, signal, call);
  }

  /** @internal */
  protected get owner(): ModelOwner {
    return this.#parts.owner;
  }

  /** Runs one request: it takes a place among the engine's for as long as it lasts. */
  protected async request<R>(work: () => R | Promise<R>): Promise<R> {
    this.check();
    return admitted(this.#parts.owner, work);
  }

  protected override free(): void {
    this.#parts.native.dispose();
    this.#parts.owner.release(this);
  }

  /** Runs a work as a generation. Refusals of `make`, like every other failure, come out of the generation. */
  protected start(make: () => Work<GenerationResult>, signal: AbortSignal | undefined): Generation {
    try {
      this.check(); // before what is wrong with the options
      return this.track(make(), signal);
    } catch (error) {
      return new Generation(new Refused(error));
    }
  }

  protected track<R>(work: Work<R>, signal: AbortSignal | undefined): Generation<R> {
    this.check();
    const leave = this.#parts.owner.admit();
    const generation = new Generation(work, signal);
    const child = {
      dispose: () => generation.cancel(disposed("model")),
      settled: generation.settled,
    };
    this.adopt(child);
    generation.settled.then(() => {
      leave();
      this.release(child);
    });
    return generation;
  }
}

/** @internal Work that takes a place among the engine's requests. */
export async function admitted<R>(owner: Pick<ModelOwner, "admit">, work: () => R | Promise<R>): Promise<R> {
  const leave = owner.admit();
  try {
    return await work();
  } finally {
    leave();
  }
}

/** A generation that was refused before it began. */
class Refused implements Work<GenerationResult> {
  constructor(readonly error: unknown) {}

  run(): Promise<GenerationResult> {
    return Promise.reject(this.error);
  }

  cancel(): void {}

  partial(): GenerationResult {
    const usage = { promptTokens: 0, completionTokens: 0, forwards: 0 };
    return { text: "", ids: new Int32Array(0), reason: "abort", usage, timing: { total: 0 }, filled: 0 };
  }
}
