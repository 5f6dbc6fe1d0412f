/** A loaded latent thought model: fits thoughts to texts, and writes, scores and explains texts by them. */

import { cancellable, mapPartial } from "../cancellation.js";
import type { ThoughtConfig } from "../checkpoint/config.js";
import { checkFunction, checkNames, checkNumber, checkSignal, invalid, isList } from "../decoding/options.js";
import { NoemaError } from "../errors.js";
import type { EstimateOptions } from "../evaluation/bound.js";
import { type Bounded, type Score, type ScoreOptions, score } from "../evaluation/score.js";
import { type ThoughtScorer, thoughtBounds } from "../evaluation/thought-bound.js";
import type { Generation, GenerationResult } from "../generation.js";
import { Model, type ModelInfo, type ModelParts } from "../model.js";
import type { NativeCancellation, NativeThoughtModel } from "../native/addon.js";
import { type FitOptions, fitSettings } from "../posterior/fit.js";
import { type FitProgress, fitOne, fromPrior } from "../posterior/infer.js";
import { between, Thought, type ThoughtSizes } from "../posterior/thought.js";
import { canvasesOf, checkPrompts, type Prompt, promptIds, seedAt } from "../request.js";
import type { Seed } from "../rng.js";
import { BatchWork, SingleWork } from "../works.js";
import type { ThoughtHost } from "./host.js";
import { look, type ThoughtInspection, withLayers } from "./inspect.js";
import { ThoughtJob } from "./job.js";
import {
  checkPriorScale,
  mannerOf,
  type ThoughtBatchOptions,
  type ThoughtGenerateOptions,
  thoughtBatchOptions,
  thoughtCanvas,
  thoughtGenerateOptions,
  thoughtLimits,
} from "./request.js";

export interface ThoughtModelInfo extends ModelInfo<ThoughtConfig> {
  family: "thought";
  bosTokenId: number;
  /** N, of all layers together. */
  numLatents: number;
}

export interface InferOptions {
  think?: FitOptions;
  /** Of the start and the noise. Default: 0. */
  seed?: Seed;
  /** What it throws ends the fit, and is what `infer` rejects with. */
  onProgress?: (progress: FitProgress) => void;
  /** Steps between two reports; where a machine takes them faster than they are heard, some are left out. Default: 4. */
  progressEvery?: number;
  signal?: AbortSignal;
}

/** @internal */
export interface ThoughtModelParts extends ModelParts<NativeThoughtModel, ThoughtConfig> {
  /** What is the model's own: see `ThoughtSizes`. */
  readonly fingerprint: string;
}

/** Texts of one shape go through the loop together; more than this many take turns. */
const batchLimit = 16;
const inferNames = ["think", "seed", "onProgress", "progressEvery", "signal"];
const imagineNames = ["seed", "scale"];

export class ThoughtModel extends Model<NativeThoughtModel, ThoughtConfig> {
  readonly family = "thought";
  readonly #sizes: ThoughtSizes;

  /** @internal Use `engine.load`. */
  constructor(parts: ThoughtModelParts) {
    super(parts);
    const { numLatents: latents, hiddenSize: width } = parts.config;
    this.#sizes = { latents, width, fingerprint: parts.fingerprint };
  }

  get info(): ThoughtModelInfo {
    const { bosTokenId, numLatents } = this.config;
    return { family: "thought", ...this.commonInfo, bosTokenId, numLatents };
  }

  /**
   * Fits a thought to a text by the fast loop (ltm.md section 2). Where it ends early, by the signal (ERR_ABORTED, whose cause is the
   * signal's reason) or because the objective is no number any more (ERR_NON_FINITE, which names the step), the error's `partial` is the
   * last good thought. A signal that comes before there is one rejects with its reason.
   */
  async infer(text: Prompt, options: InferOptions = {}): Promise<Thought> {
    return this.request(() => this.#infer(this.#textIds(text), options));
  }

  #infer(text: number[], options: InferOptions): Promise<Thought> {
    checkNames(options, inferNames, "infer");
    checkSignal(options.signal);
    const { think = {}, seed, onProgress, progressEvery = 4, signal } = options;
    checkFunction(onProgress, "onProgress");
    checkNumber(progressEvery, { min: 1, max: 1 << 20, integer: true }, "progressEvery");
    const settings = fitSettings(think, this.config);
    const fit = { text, seed: seedAt(seed), settings, onProgress, progressEvery };
    return cancellable(this.#host, signal, (cancellation) => fitOne(this.#host, { ...fit, cancellation }));
  }

  /** A draw from the prior: a thought that no text is behind. */
  imagine(options: { seed?: Seed; scale?: number } = {}): Thought {
    this.check();
    checkNames(options, imagineNames, "imagine");
    const { seed, scale = 1 } = options;
    return fromPrior(this.#host, seedAt(seed), checkNumber(scale, { min: 0, max: 10 }, "scale"));
  }

  /** A thought on the way between two, 0 at the first and 1 at the second. */
  between(from: Thought, to: Thought, share: number): Thought {
    this.check();
    return between(this.#own(from), this.#own(to), share);
  }

  /** The thought as if only these layers, counted from 0, read it: to the others it is the prior, drawn at its mean, and costs nothing. */
  onlyLayers(thought: Thought, layers: readonly number[]): Thought {
    this.check();
    const { parts } = this.#own(thought);
    if (!isList(layers)) throw invalid("layers", layers, "a list of layers");
    const layer = { min: 0, max: this.config.numLayers - 1, integer: true };
    const on = new Set(Array.from(layers, (number) => checkNumber(number, layer, "layers")));
    const left = (values: Float32Array) => withLayers(this.#host, values, (number) => on.has(number));
    return new Thought({ ...parts, mean: left(parts.mean), logVariance: left(parts.logVariance), z: left(parts.z) });
  }

  /** Reads a thought that `thought.save` wrote; refuses those of other models. */
  async loadThought(path: string): Promise<Thought> {
    this.check();
    return Thought.load(path, this.#sizes);
  }

  /** Continues a prompt by a thought of it. Iterate the result for events, or await it for the whole text. */
  generate(options: ThoughtGenerateOptions = {}): Generation {
    return this.start(() => {
      const manner = this.#manner(options, thoughtGenerateOptions);
      const canvas = thoughtCanvas(options, this.#limits);
      checkPriorScale(options, [canvas]);
      return new SingleWork(new ThoughtJob(this.#host, [canvas], manner));
    }, options?.signal);
  }

  /**
   * Continues many prompts. The text at index i is exactly what `generate` gives for that prompt alone with seed + i
   * (modulo 2^64), whatever the others are.
   */
  async generateBatch(options: ThoughtBatchOptions): Promise<GenerationResult[]> {
    const manner = this.#manner(options, thoughtBatchOptions);
    const { prompts, ...shared } = options;
    checkPrompts(prompts);
    const canvases = await canvasesOf(prompts, (prompt, i) => thoughtCanvas({ ...shared, prompt }, this.#limits, i));
    checkPriorScale(options, canvases);
    const work = new BatchWork(canvases, {
      shapeOf: ({ prompt, wanted }) => `${prompt.length} ${wanted}`,
      limit: batchLimit,
      jobOf: (group) => new ThoughtJob(this.#host, group, manner),
    });
    return this.track(work, options.signal);
  }

  override async score(text: string | ArrayLike<number>, options?: ScoreOptions): Promise<Score> {
    return this.request(() => score(this.scorer, text, options));
  }

  /** A text's thought, taken apart. */
  async inspect(text: Prompt, options: InferOptions = {}): Promise<ThoughtInspection> {
    return this.request(async () => {
      const ids = this.#textIds(text);
      const thought = await this.#infer(ids, options);
      return cancellable(this.#host, options.signal, (cancellation) =>
        look(this.#host, ids, { thought, cancellation }),
      );
    });
  }

  /** @internal For scoring and evaluation. */
  get scorer(): Bounded {
    const { maxPositions, eosTokenId } = this.config;
    return {
      ...{ form: "fresh-noise", maxPositions, eosTokenId, tokenizer: this.tokenizer },
      bounds: (windows, options) => thoughtBounds(this.#fitter(options), windows, options),
    };
  }

  #fitter({ think = {}, signal }: EstimateOptions): ThoughtScorer {
    const { native, config } = this;
    // What a window's fit leaves is nothing to those who asked for a score.
    const bare = (error: unknown) => Promise.reject(mapPartial(error, () => undefined));
    const call = <R>(work: (cancellation: NativeCancellation) => Promise<R>) =>
      cancellable(this.#host, signal, (cancellation) => work(cancellation).catch(bare));
    return {
      fit: (request) => call((cancellation) => native.fit({ ...request, cancellation })),
      bound: (request) => call((cancellation) => native.bound({ ...request, cancellation })),
      ...{ bosId: config.bosTokenId, settings: fitSettings(think, config) },
    };
  }

  #manner(options: ThoughtGenerateOptions | ThoughtBatchOptions, allowed: readonly string[]) {
    this.check();
    const manner = mannerOf(options, this.config, allowed);
    if (manner.thought) this.#own(manner.thought);
    return manner;
  }

  #own(thought: Thought): Thought {
    if (!(thought instanceof Thought)) throw invalid("thought", thought, "a thought");
    if (thought.parts.sizes.fingerprint === this.#sizes.fingerprint) return thought;
    throw new NoemaError("ERR_INVALID_ARGUMENT", "the thought belongs to another model");
  }

  #textIds(text: Prompt): number[] {
    this.check();
    const ids = promptIds(text, this.#limits, "text");
    const { maxPositions } = this.config;
    if (ids.length > 0 && ids.length <= maxPositions) return ids;
    const code = ids.length > 0 ? "ERR_PROMPT_TOO_LONG" : "ERR_INVALID_ARGUMENT";
    throw new NoemaError(code, `the text has ${ids.length} tokens, expected 1 .. ${maxPositions}`, {
      ...{ tokens: ids.length, most: maxPositions },
    });
  }

  get #limits() {
    return thoughtLimits(this.config, this.tokenizer);
  }

  get #host(): ThoughtHost {
    const { native, config, tokenizer } = this;
    const createCancellation = () => this.createCancellation();
    return { native, config, tokenizer, sizes: this.#sizes, createCancellation };
  }
}
