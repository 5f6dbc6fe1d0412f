/** A loaded flow model: generates, scores, and lets every state be looked at and edited. */

import type { FlowConfig } from "../checkpoint/config.js";
import { checkNumber, invalid } from "../decoding/options.js";
import { flowBounds } from "../evaluation/flow-bound.js";
import { type Score, type ScoreOptions, score } from "../evaluation/score.js";
import type { Generation, GenerationEvent, GenerationResult, Work } from "../generation.js";
import { type CommonParts, Model } from "../model.js";
import type { InversePlan, NativeFlowModel, Precision } from "../native/addon.js";
import { type Edit, type EditOptions, edit } from "./edit.js";
import { type Inspection, type InspectOptions, inspect } from "./inspect.js";
import { type FlowHost, FlowJob, type Plans } from "./job.js";
import { checkInversion, fastestPlans, type Inversion, measurePlans, type PlanMeasure } from "./plan.js";
import {
  checkFlowOptions,
  type FlowBatchOptions,
  type FlowCanvas,
  type FlowGenerateOptions,
  flowBatchOptions,
  flowCanvas,
  flowGenerateOptions,
} from "./request.js";

export interface FlowModelInfo {
  family: "flow";
  layout: string;
  folder: string;
  parameters: number;
  weightBytes: number;
  /** Of the bodies' products; heads, couplings and the codebook are f32. */
  precision: Precision;
  vocabSize: number;
  /** Positions of `patchSize` tokens each. */
  maxPositions: number;
  patchSize: number;
  eosTokenId?: number;
  config: Readonly<FlowConfig>;
}

/** @internal */
export interface FlowParts extends CommonParts {
  readonly native: NativeFlowModel;
  readonly config: FlowConfig;
}

/** Texts of one shape go through the inverses together; more than this many take turns. */
const batchLimit = 16;

export class FlowModel extends Model {
  readonly family = "flow";
  readonly #parts: FlowParts;
  /** Of "auto", by shape. */
  readonly #fastest = new Map<string, Promise<InversePlan[]>>();

  /** @internal Use `engine.load`. */
  constructor(parts: FlowParts) {
    super(parts);
    this.#parts = parts;
  }

  get info(): FlowModelInfo {
    this.check();
    const { native, config, folder } = this.#parts;
    const { layout, vocabSize, maxPositions, patchSize, eosTokenId } = config;
    const eos = eosTokenId === undefined ? {} : { eosTokenId };
    const sizes = { vocabSize, maxPositions, patchSize, ...eos };
    return { family: "flow", layout, folder, ...native.info(), ...sizes, config: structuredClone(config) };
  }

  /** Continues a prompt. Iterate the result for events, or await it for the whole text. */
  generate(options: FlowGenerateOptions = {}): Generation {
    return this.start(() => {
      checkFlowOptions(options, flowGenerateOptions, "generate");
      const canvas = flowCanvas(options, this.config, this.tokenizer);
      return new Single(new FlowJob(this.#host, [canvas], this.#plans(options.inversion)));
    }, options?.signal);
  }

  /**
   * Continues many prompts. The text at index i is exactly what `generate` gives for that prompt alone with seed + i
   * (modulo 2^64), whatever the others are.
   */
  async generateBatch(options: FlowBatchOptions): Promise<GenerationResult[]> {
    this.check();
    checkFlowOptions(options, flowBatchOptions, "generateBatch");
    const { prompts, ...shared } = options;
    if (!Array.isArray(prompts)) throw invalid("prompts", prompts, "a list of prompts");
    const canvases = prompts.map((prompt, i) => flowCanvas({ ...shared, prompt }, this.config, this.tokenizer, i));
    return this.track(new Batch(this.#host, canvases, this.#plans(options.inversion)), options.signal);
  }

  override async score(text: string | ArrayLike<number>, options?: ScoreOptions): Promise<Score> {
    return score(this.bounded, text, options);
  }

  /** Every state of a text on its way to noise. */
  async inspect(text: string | ArrayLike<number>, options?: InspectOptions): Promise<Inspection> {
    this.check();
    return inspect(this.#host, text, options);
  }

  /** Changes a text, or a state of it, at some places, and regenerates what depends on them. */
  async edit(options: EditOptions): Promise<Edit> {
    this.check();
    return edit(this.#host, options);
  }

  /** @internal For scoring and evaluation. */
  get bounded() {
    const { native, config } = this.#parts;
    const { eosTokenId, maxPositions, patchSize } = config;
    const encode: NativeFlowModel["encode"] = (request) => native.encode(request);
    return {
      ...{ maxPositions: maxPositions * patchSize, eosTokenId, tokenizer: this.tokenizer },
      bounds: (...[windows, options]: Tail<Parameters<typeof flowBounds>>) =>
        flowBounds({ config, encode }, windows, options),
    };
  }

  /** @internal */
  get native(): NativeFlowModel {
    this.check();
    return this.#parts.native;
  }

  /** @internal */
  get config(): Readonly<FlowConfig> {
    return this.#parts.config;
  }

  /** Every way of inverting every flow, measured on noise of a shape; the basis of "auto". */
  async measureInversions(shape: { batch?: number; positions?: number } = {}): Promise<PlanMeasure[]> {
    this.check();
    const { batch = 1, positions = this.config.maxPositions } = shape;
    checkNumber(batch, { min: 1, max: 1024, integer: true }, "batch");
    checkNumber(positions, { min: 1, max: this.config.maxPositions, integer: true }, "positions");
    return measurePlans(this.native, this.config, { batch, positions });
  }

  #plans(inversion: Inversion | undefined): Plans {
    const checked = checkInversion(inversion, this.config);
    if (checked !== "auto") return async () => checked;
    return (shape) => {
      const key = `${shape.batch} ${shape.positions}`;
      const measured = this.#fastest.get(key) ?? this.#measure(shape);
      this.#fastest.set(key, measured);
      measured.catch(() => this.#fastest.delete(key));
      return measured;
    };
  }

  async #measure(shape: { batch: number; positions: number }): Promise<InversePlan[]> {
    return fastestPlans(await measurePlans(this.native, this.config, shape), this.config);
  }

  get #host(): FlowHost {
    const { native, config } = this.#parts;
    return { native, config, tokenizer: this.tokenizer, createCancellation: () => this.createCancellation() };
  }
}

type Tail<T extends readonly unknown[]> = T extends [unknown, ...infer Rest] ? Rest : never;

class Single implements Work<GenerationResult> {
  constructor(readonly job: FlowJob) {}

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

/** Many canvases, those of one shape together. */
class Batch implements Work<GenerationResult[]> {
  readonly #jobs: { job: FlowJob; indices: readonly number[] }[];
  readonly #count: number;

  constructor(host: FlowHost, canvases: readonly FlowCanvas[], plans: Plans) {
    this.#count = canvases.length;
    this.#jobs = groupsOf(canvases).map((indices) => {
      return {
        indices,
        job: new FlowJob(
          host,
          indices.map((i) => canvases[i]!),
          plans,
        ),
      };
    });
  }

  /** A cancelled job's flag is up: the jobs after it are refused as they begin. */
  async run(): Promise<GenerationResult[]> {
    for (const { job } of this.#jobs) await job.run(() => {});
    return this.partial();
  }

  cancel(): void {
    for (const { job } of this.#jobs) job.cancel();
  }

  partial(): GenerationResult[] {
    const results = new Array<GenerationResult>(this.#count);
    for (const { job, indices } of this.#jobs)
      for (const [i, result] of job.results().entries()) results[indices[i]!] = result;
    return results;
  }
}

function groupsOf(canvases: readonly FlowCanvas[]): number[][] {
  const byShape = new Map<string, number[]>();
  for (const [i, { prefix, added }] of canvases.entries()) {
    const shape = `${prefix.length} ${added}`;
    byShape.set(shape, [...(byShape.get(shape) ?? []), i]);
  }
  return [...byShape.values()].flatMap((indices) => {
    const pieces = Math.ceil(indices.length / batchLimit);
    return Array.from({ length: pieces }, (_, i) => indices.slice(i * batchLimit, (i + 1) * batchLimit));
  });
}
