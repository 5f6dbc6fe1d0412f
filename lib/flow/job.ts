/** Texts from base noise: canvases of one shape go through the inverses together. */

import type { FlowConfig } from "../checkpoint/config.js";
import type { CommitEvent, FinishReason, GenerationEvent, GenerationResult, Timing } from "../generation.js";
import type { InversePlan, NativeCancellation, NativeFlowModel } from "../native/addon.js";
import { latentNoise } from "../normals.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { FlowCanvas } from "./request.js";

/** What a job needs of its model. */
export interface FlowHost {
  readonly native: NativeFlowModel;
  readonly config: FlowConfig;
  readonly tokenizer: Pick<Tokenizer, "encode" | "decode"> | undefined;
  createCancellation(): NativeCancellation;
}

/** How the flows are inverted, for texts of a shape. */
export type Plans = (shape: { batch: number; positions: number }) => Promise<InversePlan[]>;

interface Made {
  ids: Int32Array;
  text: string;
  reason: FinishReason;
}

export class FlowJob {
  readonly #host: FlowHost;
  readonly #canvases: readonly FlowCanvas[];
  readonly #plans: Plans;
  readonly #cancellation: NativeCancellation;
  readonly #started = performance.now();
  readonly #timing: Timing = { total: 0 };
  #made: Made[] = [];

  /** All canvases have prefixes of one length and add as many tokens. `plans` are found out when the job begins. */
  constructor(host: FlowHost, canvases: readonly FlowCanvas[], plans: Plans) {
    this.#host = host;
    this.#plans = plans;
    this.#canvases = canvases;
    this.#cancellation = host.createCancellation();
  }

  cancel(): void {
    this.#cancellation.cancel();
  }

  async run(emit: (at: number, event: GenerationEvent) => void): Promise<GenerationResult[]> {
    const tokens = await this.#invert();
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
  async #invert(): Promise<Int32Array[]> {
    const { native, config } = this.#host;
    const [{ prefix, added }] = this.#canvases as [FlowCanvas];
    if (added === 0) return this.#canvases.map(() => new Int32Array(0));
    const batch = this.#canvases.length;
    const length = prefix.length + added;
    const ids = new Int32Array(batch * length);
    const noise = new Float32Array(batch * added * config.latentSize);
    for (const [b, canvas] of this.#canvases.entries()) {
      ids.set(canvas.prefix, b * length);
      const values = added * config.latentSize;
      noise.set(latentNoise(canvas.seed, values, canvas.temperature), b * values);
    }
    const plans = await this.#plans({ batch, positions: added / config.patchSize });
    const request = { ids, batch, length, prefix: prefix.length, noise, plans, cancellation: this.#cancellation };
    const { tokens } = await native.invert(request);
    return this.#canvases.map((_, b) => tokens.subarray(b * added, (b + 1) * added));
  }

  /** The tokens wanted, up to the end of the text. */
  #finish(tokens: Int32Array, { wanted }: FlowCanvas): Made {
    const { config, tokenizer } = this.#host;
    const own = tokens.slice(0, wanted);
    const end = config.eosTokenId === undefined ? -1 : own.indexOf(config.eosTokenId);
    const ids = end < 0 ? own : own.slice(0, end);
    const text = tokenizer?.decode(ids, { skipSpecialTokens: true }) ?? "";
    return { ids, text, reason: end < 0 ? "length" : "eos" };
  }

  /** What is there so far: nothing, or all. */
  results(): GenerationResult[] {
    const total = this.#timing.total || performance.now() - this.#started;
    return this.#canvases.map(({ promptTokens, added }, at) => {
      const { ids, text, reason } = this.#made[at] ?? { ids: new Int32Array(0), text: "", reason: "abort" as const };
      const forwards = this.#made[at] ? (added / this.#host.config.patchSize) * this.#host.config.flows.length : 0;
      const usage = { promptTokens, completionTokens: ids.length, forwards };
      return { text, ids, reason, usage, timing: { ...this.#timing, total }, filled: 0 };
    });
  }
}
