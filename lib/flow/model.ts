/** A loaded flow model: generates, scores, and lets every state be looked at and edited. */

import type { FlowConfig } from "../checkpoint/config.js";
import { checkFunction, checkNames, checkNumber, checkSignal } from "../decoding/options.js";
import { flowBounds } from "../evaluation/flow-bound.js";
import { type Bounded, type Score, type ScoreOptions, score } from "../evaluation/score.js";
import type { Generation, GenerationResult } from "../generation.js";
import { Model, type ModelInfo } from "../model.js";
import type { FlowBatch, NativeFlowModel } from "../native/addon.js";
import { canvasesOf, checkPrompts, type Prompt } from "../request.js";
import { BatchWork, SingleWork } from "../works.js";
import {
  decode,
  encode,
  type FlowDecodeOptions,
  type FlowEncodeOptions,
  type FlowState,
  type FlowText,
} from "./codec.js";
import { type DraftMeasure, type DraftOptions, measureDrafts } from "./drafts.js";
import { type Edit, type EditOptions, edit } from "./edit.js";
import { type Inspection, type InspectOptions, inspect } from "./inspect.js";
import { type FlowHost, FlowJob, type Plans } from "./job.js";
import { FastestPlans, measurePlans, type PlanMeasure } from "./measure.js";
import { checkInversion, type Inversion } from "./plan.js";
import {
  checkAncestral,
  checkExit,
  checkFlowOptions,
  type FlowBatchOptions,
  type FlowGenerateOptions,
  flowBatchOptions,
  flowCanvas,
  flowGenerateOptions,
} from "./request.js";

/** The precision is that of the bodies' products: heads, couplings and the codebook are f32. Positions have `patchSize` tokens each. */
export interface FlowModelInfo extends ModelInfo<FlowConfig> {
  family: "flow";
  patchSize: number;
}

export interface InversionMeasureOptions {
  batch?: number;
  positions?: number;
  /** Is told of every way as soon as it has been measured. */
  onMeasure?: (measure: PlanMeasure) => void;
  signal?: AbortSignal;
}

/** Texts of one shape go through the inverses together; more than this many take turns. */
const batchLimit = 16;

export class FlowModel extends Model<NativeFlowModel, FlowConfig> {
  readonly family = "flow";
  readonly #fastest = new FastestPlans(this.#host);

  get info(): FlowModelInfo {
    return { family: "flow", ...this.commonInfo, patchSize: this.config.patchSize };
  }

  /**
   * Continues a prompt: base noise through the inverses of all flows (tarflowlm.md section 6.1). Iterate the result for
   * events, or await it for the whole text. Errors come out of both. ERR_INVALID_ARGUMENT and ERR_UNKNOWN_OPTION name
   * the option, and are also the answer to a prompt that fills no whole patches where the model has no end-of-text
   * token; ERR_BAD_TOKENIZER: text, and no tokenizer; ERR_PROMPT_TOO_LONG: no room for prompt and new tokens;
   * ERR_UNSUPPORTED: a prompt without prefix conditioning, an exit without a readout, a draw from a flow that has no
   * mixture, or a cut of one without a vocabulary; ERR_NOT_CONVERGED: a flow has no inverse within its plan, or what
   * sweeps found leads elsewhere, ERR_NON_FINITE: a state is no number or no token's, both with details of where (flow,
   * sequence, firstPosition, lastPosition; of a batch also prompt); ERR_QUEUE_FULL; ERR_DISPOSED; ERR_ABORTED, whose
   * cause is the signal's reason.
   */
  generate(options: FlowGenerateOptions = {}): Generation {
    return this.start(() => {
      checkFlowOptions(options, flowGenerateOptions, "generate");
      const canvas = flowCanvas(options, this.config, this.tokenizer);
      const { refine = false } = options;
      return new SingleWork(new FlowJob(this.#host, [canvas], { ...this.#jobOptions(options), refine }));
    }, options?.signal);
  }

  /**
   * Continues many prompts. The text at index i is exactly what `generate` gives for that prompt alone with seed + i
   * (modulo 2^64), whatever the others are. Rejects with what comes out of `generate`, and names the prompt.
   */
  async generateBatch(options: FlowBatchOptions): Promise<GenerationResult[]> {
    this.check();
    checkFlowOptions(options, flowBatchOptions, "generateBatch");
    const { prompts, ...shared } = options;
    checkPrompts(prompts);
    const canvases = await canvasesOf(prompts, (prompt, i) =>
      flowCanvas({ ...shared, prompt }, this.config, this.tokenizer, i),
    );
    const jobOptions = { ...this.#jobOptions(options), refine: false };
    const work = new BatchWork(canvases, {
      shapeOf: ({ prefix, added }) => `${prefix.length} ${added}`,
      limit: batchLimit,
      jobOf: (group) => new FlowJob(this.#host, group, jobOptions),
    });
    return this.track(work, options.signal);
  }

  override async score(text: string | ArrayLike<number>, options?: ScoreOptions): Promise<Score> {
    return this.request(() => score(this.scorer, text, options));
  }

  /**
   * A text as the latents of a state: base noise, or another level's. By the steps that `decode` undoes. Rejects with what comes out of
   * `inspect`.
   */
  async encode(text: Prompt, options?: FlowEncodeOptions): Promise<FlowState> {
    return this.request(() => encode(this.#host, text, options));
  }

  /**
   * The text that a state's latents lead to. Of a state that `encode` gave it is the text that it was given, but for tokens that the
   * encoder's own noise took into another's place (none where `sigmaCeiling` kept them apart in training). Behind a `context` base noise is
   * what `generate` makes of that prompt. Rejects with ERR_INVALID_ARGUMENT or ERR_UNKNOWN_OPTION, which name what is wrong,
   * ERR_PROMPT_TOO_LONG or ERR_UNSUPPORTED (a context that leaves no room, or of a model that takes none), ERR_BAD_TOKENIZER,
   * ERR_NOT_CONVERGED, ERR_NON_FINITE (latents that are no token's, or lead to none), ERR_DISPOSED or the signal's reason.
   */
  async decode(options: FlowDecodeOptions): Promise<FlowText> {
    return this.request(() => decode(this.#host, options));
  }

  /**
   * Every state of a text on its way to noise: L + 1 of [N,c] for N positions of P tokens and c = d * P channels, each
   * with what it reads as, its log-determinant in nats and how it looks as a cloud of vectors (tarflowlm.md sections
   * 2.1 and 4). Rejects with ERR_INVALID_ARGUMENT or ERR_UNKNOWN_OPTION, which name what is wrong (an empty text, an
   * unknown token, or no whole patches where the model has no end-of-text token), ERR_PROMPT_TOO_LONG (with its `context`),
   * ERR_UNSUPPORTED (a context, and no prefix conditioning), ERR_BAD_TOKENIZER (text, and no tokenizer), ERR_NON_FINITE (a state is no
   * number, and where: positions count the context), ERR_DISPOSED or the signal's reason.
   */
  async inspect(text: Prompt, options?: InspectOptions): Promise<Inspection> {
    return this.request(() => inspect(this.#host, text, options));
  }

  /**
   * Early exit, measured: how often each state, where it can be read, reads as the text that it becomes, over `count`
   * texts, written from nothing at temperature 1 or as the options say: it is another figure for another draw. A measure per level, L
   * (base noise) to 0 (the text). Rejects with ERR_INVALID_ARGUMENT or ERR_UNKNOWN_OPTION, which name the option, ERR_PROMPT_TOO_LONG,
   * ERR_UNSUPPORTED and ERR_BAD_TOKENIZER as `generate` does, ERR_NOT_CONVERGED (a flow has no inverse, and where), ERR_DISPOSED or the
   * signal's reason.
   */
  async measureDrafts(options?: DraftOptions): Promise<DraftMeasure[]> {
    return this.request(() => measureDrafts(this.#host, options));
  }

  /**
   * Changes a text, or a state of it, at some places, and regenerates what depends on them (tarflowlm.md section 4):
   * what comes before a change in the flow's order stays bit for bit, and so does its `context`. Rejects with ERR_INVALID_ARGUMENT or
   * ERR_UNKNOWN_OPTION, which name what is wrong (no changes, or of a place that is not there, or two of one place),
   * ERR_PROMPT_TOO_LONG, ERR_UNSUPPORTED (a context, and no prefix conditioning), ERR_BAD_TOKENIZER (text, and no tokenizer),
   * ERR_NOT_CONVERGED (a flow has no inverse at the change, and where), ERR_NON_FINITE, ERR_DISPOSED or the signal's reason.
   */
  async edit(options: EditOptions): Promise<Edit> {
    return this.request(() => edit(this.#host, options));
  }

  /** @internal For scoring and evaluation. */
  get scorer(): Bounded {
    const { native, config } = this;
    const { eosTokenId, maxPositions, patchSize } = config;
    const encode = (signal?: AbortSignal) => (request: FlowBatch) =>
      this.ended(signal, (cancellation) => native.encode({ ...request, cancellation }));
    return {
      ...{ maxPositions: maxPositions * patchSize, patchSize, eosTokenId, tokenizer: this.tokenizer },
      form: "telescoped",
      bounds: (windows, options) => flowBounds({ config, encode: encode(options.signal) }, windows, options),
    };
  }

  /**
   * Every way of inverting every flow, measured on noise of a shape: `batch` texts of `positions` each (default: one,
   * as many as the model has). Plain sweeps over the flow that carries the language model take a hundred times as long
   * as position after position. Rejects with ERR_INVALID_ARGUMENT or ERR_UNKNOWN_OPTION, which name the option,
   * ERR_NOT_CONVERGED (a flow has no inverse, and where), ERR_DISPOSED or the signal's reason.
   */
  async measureInversions(options: InversionMeasureOptions = {}): Promise<PlanMeasure[]> {
    this.check();
    checkNames(options, ["batch", "positions", "onMeasure", "signal"], "measureInversions");
    const { batch = 1, positions = this.config.maxPositions, onMeasure, signal } = options;
    checkNumber(batch, { min: 1, max: 1024, integer: true }, "batch");
    checkNumber(positions, { min: 1, max: this.config.maxPositions, integer: true }, "positions");
    checkFunction(onMeasure, "onMeasure");
    checkSignal(signal);
    return this.request(() => measurePlans(this.#host, { batch, positions }, { onMeasure, signal }));
  }

  #jobOptions(options: FlowGenerateOptions | FlowBatchOptions) {
    const plans = this.#plans(options.inversion);
    return { plans, exit: checkExit(options.exit, this.config), ancestral: checkAncestral(options, this.config) };
  }

  #plans(inversion: Inversion | undefined): Plans {
    const checked = checkInversion(inversion, this.config);
    return checked === "auto" ? (shape, signal) => this.#fastest.of(shape, signal) : async () => checked;
  }

  get #host(): FlowHost {
    const { native, config } = this;
    return { native, config, tokenizer: this.tokenizer, createCancellation: () => this.createCancellation() };
  }
}
