/** Decodes canvases of one length on a session of their own, and turns what happens into events and results. */

import { Decoder } from "./decoding/decoder.js";
import type { DecodingSettings } from "./decoding/resolve.js";
import type { Sequence } from "./decoding/sequence.js";
import {
  type GenerationEvent,
  type GenerationResult,
  type RefineEvent,
  refineEvent,
  type Timing,
} from "./generation.js";
import type { NativeCancellation, NativeMaskedModel, NativeSession } from "./native/addon.js";
import type { DecodeStream, Tokenizer } from "./tokenizer/tokenizer.js";

export interface Canvas {
  /** [T] given tokens, and the mask token where text is to be made. */
  readonly ids: Int32Array;
  /** Where the result's text starts. */
  readonly from: number;
  /** Where an end-of-text token may end the text; -1: nowhere. */
  readonly eosFrom: number;
  readonly promptTokens: number;
  readonly seed: bigint;
}

/** What a job needs of its model. */
export interface JobHost {
  readonly native: NativeMaskedModel;
  readonly maskId: number;
  readonly eosId: number;
  readonly tokenizer: Tokenizer | undefined;
  createCancellation(): NativeCancellation;
}

export interface JobOptions {
  readonly settings: DecodingSettings;
  readonly refine: boolean;
}

/** Gets an event of the canvas at index `at`. */
export type Emit = (at: number, event: GenerationEvent) => void;

/** One canvas's way out. */
class Outlet {
  /** Committed so far. */
  text = "";
  readonly #stream: DecodeStream | undefined;
  readonly timing: Timing = { total: 0 };
  readonly #started = performance.now();
  readonly #pending: number[] = [];
  readonly ids: number[] = [];

  constructor(
    readonly canvas: Canvas,
    tokenizer: Tokenizer | undefined,
  ) {
    this.#stream = tokenizer?.decodeStream({ skipSpecialTokens: true });
  }

  /** The commit event for tokens up to `end`, if they make text or `final` is set. */
  commit(sequence: Sequence, final: boolean): GenerationEvent | undefined {
    const end = committed(sequence);
    const fresh = [...sequence.ids.slice(this.canvas.from + this.ids.length, end)];
    if (fresh.length === 0 && !final) return undefined;
    for (const id of fresh) {
      this.ids.push(id);
      this.#pending.push(id);
    }
    const text = this.#decode(fresh, final);
    const says = text !== "" || (this.#pending.length > 0 && (final || !this.#stream));
    if (!says) return undefined;
    this.text += text;
    this.timing.firstCommit ??= performance.now() - this.#started;
    return { type: "commit", text, ids: Int32Array.from(this.#pending.splice(0)) };
  }

  #decode(ids: readonly number[], final: boolean): string {
    if (!this.#stream) return "";
    const text = this.#stream.push(ids);
    return final ? text + this.#stream.end() : text;
  }

  stop(): void {
    this.timing.total = performance.now() - this.#started;
  }
}

/** One past the last token that is final and part of the text: an end-of-text token that cut it is not. */
function committed(sequence: Sequence): number {
  return sequence.cut >= 0 ? sequence.cut - 1 : (sequence.masked[0] ?? sequence.ids.length);
}

export class Job {
  readonly #host: JobHost;
  readonly #options: JobOptions;
  readonly #outlets: readonly Outlet[];
  readonly #cancellation: NativeCancellation;
  #decoder: Decoder | undefined;
  #cancelled = false;

  constructor(host: JobHost, canvases: readonly Canvas[], options: JobOptions) {
    this.#host = host;
    this.#options = options;
    this.#outlets = canvases.map((canvas) => new Outlet(canvas, host.tokenizer));
    this.#cancellation = host.createCancellation();
  }

  cancel(): void {
    this.#cancelled = true;
    this.#cancellation.cancel();
  }

  async run(emit: Emit): Promise<GenerationResult[]> {
    const session = this.#open();
    try {
      this.#decoder = this.#decode(session, emit);
      await this.#decoder.run();
      for (const [at, outlet] of this.#outlets.entries()) this.#finish(outlet, at, emit);
      return this.results();
    } finally {
      session?.dispose();
    }
  }

  /** What is there so far. */
  results(): GenerationResult[] {
    return this.#outlets.map((outlet, at) => this.#result(outlet, this.#decoder?.sequences[at]));
  }

  /** Canvases without masks need no session. */
  #open(): NativeSession | undefined {
    const canvases = this.#outlets.map(({ canvas }) => canvas);
    const { maskId, native } = this.#host;
    if (!canvases.some(({ ids }) => ids.includes(maskId))) return undefined;
    const ids = Int32Array.from(canvases.flatMap((canvas) => [...canvas.ids]));
    const { guidance } = this.#options.settings;
    const prompt = Uint8Array.from(ids, (id) => (id === maskId ? 0 : 1));
    return native.session({
      batch: canvases.length,
      length: canvases[0]!.ids.length,
      ids,
      seeds: BigUint64Array.from(canvases, ({ seed }) => seed),
      ...(guidance > 0 ? { guidance: { scale: guidance, prompt } } : {}),
    });
  }

  #decode(session: NativeSession | undefined, emit: Emit): Decoder {
    const { maskId, eosId } = this.#host;
    const { settings, refine } = this.#options;
    return new Decoder({
      session: session ?? unused,
      starts: this.#outlets.map(({ canvas }) => canvas),
      settings,
      maskId,
      eosId,
      cancellation: this.#cancellation,
      isCancelled: () => this.#cancelled,
      stepwise: refine,
      onStep: (step, isIdle) => isIdle || this.#report(step, emit),
    });
  }

  #report(step: number, emit: Emit): void {
    this.#outlets.forEach((outlet, at) => {
      const sequence = this.#decoder!.sequences[at]!;
      if (this.#options.refine) emit(at, this.#draft(step, sequence, outlet.canvas));
      const commit = outlet.commit(sequence, false);
      if (commit) emit(at, commit);
    });
  }

  #draft(step: number, { ids: decided, draft, confidence }: Sequence, { from, eosFrom }: Canvas): RefineEvent {
    const { maskId, eosId, tokenizer } = this.#host;
    const mask = Uint8Array.from(decided, (id) => (id === maskId ? 1 : 0));
    const ids = draft.slice();
    const stops = this.#options.settings.stopAtEos && eosFrom >= 0;
    return refineEvent({ type: "refine", step, ids, mask, confidence: confidence.slice() }, () => {
      const end = stops ? ids.indexOf(eosId, eosFrom) : -1;
      return tokenizer?.decode(ids.subarray(from, end < 0 ? ids.length : end), { skipSpecialTokens: true }) ?? "";
    });
  }

  #finish(outlet: Outlet, at: number, emit: Emit): void {
    const commit = outlet.commit(this.#decoder!.sequences[at]!, true);
    if (commit) emit(at, commit);
    outlet.stop();
    const { reason, usage, timing, filled } = this.#result(outlet, this.#decoder!.sequences[at]);
    emit(at, { type: "finish", reason, usage, timing, filled });
  }

  #result(outlet: Outlet, sequence: Sequence | undefined): GenerationResult {
    const { canvas, ids, text, timing } = outlet;
    const reason = sequence?.cut !== undefined && sequence.cut >= 0 ? "eos" : "length";
    return {
      text,
      ids: Int32Array.from(ids),
      reason: sequence?.finished ? reason : "abort",
      usage: {
        promptTokens: canvas.promptTokens,
        completionTokens: ids.length,
        forwards: sequence?.passes ?? 0,
      },
      timing,
      filled: sequence?.filled ?? 0,
    };
  }
}

/** Stands in where no position is masked, so that nothing is ever asked of it. */
const unused: NativeSession = {
  step: () => Promise.reject(new Error("there is nothing to decode")),
  run: () => Promise.reject(new Error("there is nothing to decode")),
  canvas: () => new Int32Array(0),
  dispose: () => {},
};
