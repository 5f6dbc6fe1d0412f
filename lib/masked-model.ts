/** A loaded masked-diffusion model: generates, fills holes, opens sessions. */

import type { MaskedConfig } from "./checkpoint/config.js";
import { resolveDecoding } from "./decoding/resolve.js";
import { type Corrupted, type Score, type ScoreOptions, score } from "./evaluation/score.js";
import type { Generation, GenerationResult } from "./generation.js";
import { type Canvas, Job, type JobHost } from "./job.js";
import { Model, type ModelInfo } from "./model.js";
import type { NativeMaskedModel } from "./native/addon.js";
import {
  type BatchOptions,
  batchOptions,
  canvasesOf,
  checkKeys,
  checkPrompts,
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

export interface MaskedModelInfo extends ModelInfo<MaskedConfig> {
  family: "masked";
  maskTokenId: number;
}

/** Texts of one length share a session; more than this many take turns. */
const batchLimit = 16;

export class MaskedModel extends Model<NativeMaskedModel, MaskedConfig> {
  readonly family = "masked";

  get info(): MaskedModelInfo {
    return { family: "masked", ...this.commonInfo, maskTokenId: this.config.maskTokenId };
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
    checkPrompts(prompts);
    const settings = resolveDecoding(options.decoding);
    const canvases = await canvasesOf(prompts, (prompt, i) => generateCanvas({ ...shared, prompt }, this.#limits, i));
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
    return this.request(() => score(this.scorer, text, options));
  }

  /** @internal For scoring and evaluation. */
  get scorer(): Corrupted {
    const { native, tokenizer } = this;
    const { maskTokenId: maskId, maxPositions, eosTokenId } = this.config;
    return {
      ...{ maskId, maxPositions, eosTokenId, tokenizer },
      losses: (request, signal) => this.ended(signal, (cancellation) => native.losses({ ...request, cancellation })),
    };
  }

  /** Step-by-step access to one canvas, for decoding rules of one's own. */
  session(options: SessionOptions): Session {
    this.check();
    const release = (session: Session) => this.release(session);
    return this.adopt(new Session({ native: this.native, limits: this.#limits, owner: this.owner, release }, options));
  }

  get #limits(): Limits {
    const { vocabSize, maxPositions, maskTokenId: maskId, eosTokenId: eosId = -1 } = this.config;
    return { vocabSize, maxPositions, maskId, eosId, tokenizer: this.tokenizer };
  }

  get #host(): JobHost {
    const { native } = this;
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
