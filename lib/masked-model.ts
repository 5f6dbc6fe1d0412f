/** A loaded masked-diffusion model: generates, fills holes, opens sessions. */

import type { MaskedConfig } from "./checkpoint/config.js";
import { invalid } from "./decoding/options.js";
import { type DecodingSettings, resolveDecoding } from "./decoding/resolve.js";
import { NoemaError } from "./errors.js";
import { type Score, type ScoreOptions, score } from "./evaluation/score.js";
import type { Generation, GenerationEvent, GenerationResult, Work } from "./generation.js";
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
    return this.track(new BatchWork(this.#host, canvases, settings), options.signal);
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

class SingleWork implements Work<GenerationResult> {
  constructor(readonly job: Job) {}

  async run(emit: (event: GenerationEvent) => void): Promise<GenerationResult> {
    const [result] = await this.job.run((_, event) => emit(event));
    return result!;
  }

  cancel(): void {
    this.job.cancel();
  }

  partial(): GenerationResult {
    return this.job.results()[0]!;
  }
}

/** Many canvases, in sessions of one length each. */
class BatchWork implements Work<GenerationResult[]> {
  readonly #jobs: readonly { job: Job; indices: readonly number[] }[];
  readonly #count: number;
  #cancelled = false;

  constructor(host: JobHost, canvases: readonly Canvas[], settings: DecodingSettings) {
    this.#count = canvases.length;
    this.#jobs = groupsOf(canvases).map((indices) => ({
      indices,
      job: new Job(
        host,
        indices.map((i) => canvases[i]!),
        { settings, refine: false },
      ),
    }));
  }

  async run(): Promise<GenerationResult[]> {
    for (const { job } of this.#jobs) {
      if (this.#cancelled) throw new NoemaError("ERR_ABORTED", "the generation was cancelled");
      await job.run(() => {});
    }
    return this.partial();
  }

  cancel(): void {
    this.#cancelled = true;
    for (const { job } of this.#jobs) job.cancel();
  }

  partial(): GenerationResult[] {
    const results = new Array<GenerationResult>(this.#count);
    for (const { job, indices } of this.#jobs) {
      job.results().forEach((result, i) => {
        results[indices[i]!] = result;
      });
    }
    return results;
  }
}

/** Indices of canvases that share a session: of one length, at most `batchLimit`. */
function groupsOf(canvases: readonly Canvas[]): number[][] {
  const open = new Map<number, number[]>();
  const groups: number[][] = [];
  canvases.forEach(({ ids }, i) => {
    let group = open.get(ids.length);
    if (!group || group.length === batchLimit) {
      group = [];
      open.set(ids.length, group);
      groups.push(group);
    }
    group.push(i);
  });
  return groups;
}
