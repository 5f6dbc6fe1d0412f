/** A loaded masked-diffusion model: generates, fills holes, opens sessions. */

import type { MaskedConfig } from "./checkpoint/config.js";
import { invalid } from "./decoding/options.js";
import { resolveDecoding } from "./decoding/resolve.js";
import { type Score, type ScoreOptions, score } from "./evaluation/score.js";
import type { Generation, GenerationResult } from "./generation.js";
import { type Canvas, Job, type JobHost } from "./job.js";
import { type CommonParts, Model } from "./model.js";
import type { NativeMaskedModel, Precision } from "./native/addon.js";
import {
  type BatchOptions,
  batchOptions,
  checkKeys,
  type GenerateOptions,
  generateCanvas,
  generateOptions,
  type InfillOptions,
  infillCanvas,
  infillOptions,
  type Limits,
  type RunOptions,
} from "./request.js";
import { Session, type SessionOptions } from "./session.js";
import { BatchWork, SingleWork } from "./works.js";

export interface MaskedModelInfo {
  family: "masked";
  layout: string;
  folder: string;
  parameters: number;
  weightBytes: number;
  precision: Precision;
  vocabSize: number;
  maxPositions: number;
  maskTokenId: number;
  eosTokenId?: number;
  config: Readonly<MaskedConfig>;
}

/** @internal */
export interface MaskedParts extends CommonParts {
  readonly native: NativeMaskedModel;
  readonly config: MaskedConfig;
}

/** Texts of one length share a session; more than this many take turns. */
const batchLimit = 16;

export class MaskedModel extends Model {
  readonly family = "masked";
  readonly #parts: MaskedParts;

  /** @internal Use `engine.load`. */
  constructor(parts: MaskedParts) {
    super(parts);
    this.#parts = parts;
  }

  get info(): MaskedModelInfo {
    this.check();
    const { native, config, folder } = this.#parts;
    const { layout, vocabSize, maxPositions, maskTokenId, eosTokenId } = config;
    const eos = eosTokenId === undefined ? {} : { eosTokenId };
    const sizes = { vocabSize, maxPositions, maskTokenId, ...eos };
    return { family: "masked", layout, folder, ...native.info(), ...sizes, config: { ...config } };
  }

  /** Continues a prompt. Iterate the result for events, or await it for the whole text. */
  generate(options: GenerateOptions = {}): Generation {
    return this.#decode(options, () => {
      checkKeys(options, generateOptions, "generate");
      return generateCanvas(options, this.#limits);
    });
  }

  /**
   * Continues many prompts. The text at index i is exactly what `generate` gives for that prompt alone with seed + i
   * (modulo 2^64), whatever the others are.
   */
  async generateBatch(options: BatchOptions): Promise<GenerationResult[]> {
    this.check();
    checkKeys(options, batchOptions, "generateBatch");
    const { prompts, ...shared } = options;
    if (!Array.isArray(prompts)) throw invalid("prompts", prompts, "a list of prompts");
    const settings = resolveDecoding(options.decoding);
    const canvases = prompts.map((prompt, i) => generateCanvas({ ...shared, prompt }, this.#limits, i));
    const work = new BatchWork(canvases, {
      shapeOf: ({ ids }) => `${ids.length}`,
      limit: batchLimit,
      jobOf: (group) => new Job(this.#host, group, { settings, refine: false }),
    });
    return this.track(work, options.signal);
  }

  /** Fills the holes of a text. Its result is the whole text, given tokens included. */
  infill(options: InfillOptions): Generation {
    return this.#decode(options, () => {
      checkKeys(options, infillOptions, "infill");
      return infillCanvas(options, this.#limits);
    });
  }

  override async score(text: string | ArrayLike<number>, options?: ScoreOptions): Promise<Score> {
    const { native, tokenizer } = this;
    const { maskTokenId: maskId, maxPositions } = this.config;
    return score({ maskId, maxPositions, tokenizer, losses: (request) => native.losses(request) }, text, options);
  }

  /** Step-by-step access to one canvas, for decoding rules of one's own. */
  session(options: SessionOptions): Session {
    this.check();
    const created = new Session(this.#parts.native, this.addon, this.#limits, options, (session) =>
      this.release(session),
    );
    return this.adopt(created);
  }

  /** @internal For training and scoring. */
  get native(): NativeMaskedModel {
    this.check();
    return this.#parts.native;
  }

  /** @internal */
  get config(): Readonly<MaskedConfig> {
    return this.#parts.config;
  }

  get #limits(): Limits {
    const { config } = this.#parts;
    const { vocabSize, maxPositions, maskTokenId: maskId, eosTokenId: eosId = -1 } = config;
    return { vocabSize, maxPositions, maskId, eosId, tokenizer: this.tokenizer };
  }

  get #host(): JobHost {
    const { native } = this.#parts;
    const { maskId, eosId, tokenizer } = this.#limits;
    return { native, maskId, eosId, tokenizer, createCancellation: () => this.createCancellation() };
  }

  #decode(options: RunOptions & { refine?: boolean }, canvasOf: () => Canvas): Generation {
    return this.start(() => {
      const canvas = canvasOf();
      const settings = resolveDecoding(options.decoding);
      return new SingleWork(new Job(this.#host, [canvas], { settings, refine: options.refine ?? false }));
    }, options?.signal);
  }
}
