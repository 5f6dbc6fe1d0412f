/** Texts from base noise: canvases of one shape go through the inverses together. */

import type { FlowConfig } from "../checkpoint/config.js";
import { NoemaError } from "../errors.js";
import {
  type CommitEvent,
  type FinishReason,
  type GenerationEvent,
  type GenerationResult,
  type RefineEvent,
  refineEvent,
  type Timing,
} from "../generation.js";
import type {
  AncestralDraw,
  FlowInverse,
  FlowReading,
  InversePlan,
  NativeCancellation,
  NativeFlowModel,
  State,
} from "../native/addon.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { type CanvasRequest, requestOf } from "./canvases.js";
import type { InversionShape } from "./plan.js";
import { type FlowCanvas, hasReading } from "./request.js";
import { writtenAs } from "./states.js";

/** What a job needs of its model. */
export interface FlowHost {
  readonly native: NativeFlowModel;
  readonly config: FlowConfig;
  readonly tokenizer: Tokenizer | undefined;
  createCancellation(): NativeCancellation;
}

/** How the flows are inverted, for texts of a shape; the signal ends whatever it takes to find out. */
export type Plans = (shape: InversionShape, signal: AbortSignal) => Promise<InversePlan[]>;

interface Made {
  ids: Int32Array;
  text: string;
  reason: FinishReason;
}

export interface FlowJobOptions {
  /** How the flows are inverted; found out when the job begins. */
  plans: Plans;
  /** The level that texts are read from. */
  exit: number;
  refine: boolean;
  /** How the flow nearest the noise is drawn from; it is inverted without. */
  ancestral: AncestralDraw | undefined;
}

interface Request extends CanvasRequest {
  plans: InversePlan[];
}

export class FlowJob {
  readonly #host: FlowHost;
  readonly #canvases: readonly FlowCanvas[];
  readonly #options: FlowJobOptions;
  readonly #cancellation: NativeCancellation;
  readonly #ended = new AbortController();
  readonly #started = performance.now();
  readonly #timing: Timing = { total: 0 };
  /** Of every canvas whose flows are swept. */
  readonly #residuals: (number | undefined)[] = [];
  #made: Made[] = [];

  /** All canvases have prefixes of one length and add as many tokens. */
  constructor(host: FlowHost, canvases: readonly FlowCanvas[], options: FlowJobOptions) {
    this.#host = host;
    this.#options = options;
    this.#canvases = canvases;
    this.#cancellation = host.createCancellation();
  }

  cancel(): void {
    this.#ended.abort(new NoemaError("ERR_ABORTED", "the generation was cancelled"));
    this.#cancellation.cancel();
  }

  async run(emit: (at: number, event: GenerationEvent) => void): Promise<GenerationResult[]> {
    const tokens = await this.#tokens(emit);
    this.#timing.firstCommit = this.#timing.total = performance.now() - this.#started;
    this.#made = tokens.map((ids, at) => this.#finish(ids, this.#canvases[at]!));
    for (const [at, result] of this.results().entries()) {
      const { text, ids, reason, usage, timing, filled } = result;
      if (ids.length > 0) emit(at, { type: "commit", text, ids } satisfies CommitEvent);
      emit(at, { type: "finish", reason, usage, timing, filled });
    }
    return this.results();
  }

  /** Tokens of every canvas. */
  async #tokens(emit: (at: number, event: GenerationEvent) => void): Promise<Int32Array[]> {
    const added = this.#canvases[0]!.added;
    if (added === 0) return this.#canvases.map(() => new Int32Array(0));
    const request = await this.#request();
    const { exit, refine } = this.#options;
    const tokens = exit === 0 && !refine ? await this.#whole(request) : await this.#byLevel(request, emit);
    return this.#canvases.map((_, b) => tokens.subarray(b * added, (b + 1) * added));
  }

  async #request(): Promise<Request> {
    const { config } = this.#host;
    const { ancestral } = this.#options;
    const request = requestOf(this.#canvases, config, ancestral);
    const shape = { batch: request.batch, positions: this.#canvases[0]!.added / config.patchSize };
    const fastest = await this.#options.plans(shape, this.#ended.signal);
    const plans: InversePlan[] = ancestral ? [...fastest.slice(0, -1), { method: "sequential" }] : fastest;
    return { ...request, plans };
  }

  async #whole(request: Request): Promise<Int32Array> {
    const found = await this.#host.native.invert({ ...request, cancellation: this.#cancellation });
    this.#noteResiduals(found);
    return found.tokens;
  }

  #noteResiduals({ residuals }: FlowInverse): void {
    for (const ofFlow of residuals)
      for (const [at, residual] of ofFlow.entries()) this.#residuals[at] = Math.max(this.#residuals[at] ?? 0, residual);
  }

  /** One flow's inverse after the other, as far as the text is read from; states that can be read are told on the way. */
  async #byLevel(
    { noise, ancestral, ...request }: Request,
    emit: (at: number, event: GenerationEvent) => void,
  ): Promise<Int32Array> {
    const { native, config } = this.#host;
    const { exit, refine } = this.#options;
    const cancellation = this.#cancellation;
    let latents: State = noise;
    let tokens = new Int32Array(0);
    const top = config.flows.length;
    for (let level = top; level >= exit; level--) {
      if (level < top) {
        const draw = level + 1 === top && ancestral ? { ancestral } : {};
        const found = await native.invert({ ...request, ...draw, latents, level: level + 1, to: level, cancellation });
        this.#noteResiduals(found);
        latents = found.state;
      } else if (ancestral) {
        continue; // this noise is no state of the text that is drawn
      }
      if (level !== exit && !(refine && hasReading(level, config))) continue;
      const reading = await native.read({ level, latents, cancellation });
      tokens = reading.tokens as Int32Array<ArrayBuffer>;
      for (const [at, canvas] of refine ? this.#canvases.entries() : [])
        emit(at, this.#draft(canvas, at, level, reading));
    }
    return tokens;
  }

  /** What was given and what is wanted, without what fills their patches. */
  #draft(canvas: FlowCanvas, at: number, level: number, { tokens, confidence }: FlowReading): RefineEvent {
    const { prefix, added, wanted, promptTokens } = canvas;
    const given = prefix.slice(prefix.length - promptTokens);
    const own = tokens.subarray(at * added, at * added + wanted);
    const ids = Int32Array.from([...given, ...own]);
    const sure = new Float32Array(ids.length).fill(1);
    sure.set(confidence.subarray(at * added, at * added + wanted), given.length);
    const mask = new Uint8Array(ids.length).fill(level === this.#options.exit ? 0 : 1, given.length);
    const { flows } = this.#host.config;
    const accuracy = level === 0 ? undefined : flows[level - 1]!.readoutAccuracy;
    const event = {
      ...{ type: "refine" as const, step: flows.length - level, ids, mask, confidence: sure, level },
      ...(accuracy !== undefined && { accuracy }),
    };
    return refineEvent(event, () => this.#finish(own, canvas).text);
  }

  /** The tokens wanted, up to the end of the text. */
  #finish(tokens: Int32Array, { wanted }: FlowCanvas): Made {
    const { config } = this.#host;
    const own = tokens.slice(0, wanted);
    const end = config.eosTokenId === undefined ? -1 : own.indexOf(config.eosTokenId);
    const ids = end < 0 ? own : own.slice(0, end);
    return { ids, text: writtenAs(ids, this.#host), reason: end < 0 ? "length" : "eos" };
  }

  /** What is there so far: nothing, or all. */
  results(): GenerationResult[] {
    const total = this.#timing.total || performance.now() - this.#started;
    const { config } = this.#host;
    const flows = config.flows.length - this.#options.exit;
    return this.#canvases.map(({ promptTokens, added }, at) => {
      const { ids, text, reason } = this.#made[at] ?? { ids: new Int32Array(0), text: "", reason: "abort" as const };
      const forwards = this.#made[at] ? (added / config.patchSize) * flows : 0;
      const usage = { promptTokens, completionTokens: ids.length, forwards };
      const residual = this.#residuals[at];
      const result = { text, ids, reason, usage, timing: { ...this.#timing, total }, filled: 0 };
      return residual === undefined ? result : { ...result, residual };
    });
  }
}
