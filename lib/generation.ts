/** One run of a model, as a stream of events and as a promise of the result. */

import { endedBy, withPartial } from "./cancellation.js";
import { NoemaError } from "./errors.js";
import type { Thought } from "./posterior/thought.js";

export type FinishReason = "length" | "eos" | "abort";

export interface Usage {
  promptTokens: number;
  completionTokens: number;
  /** Forward passes that looked at this text; of a thought model also those of fits and bounds, and of all drafts that it was chosen from. */
  forwards: number;
}

export interface Timing {
  /** Milliseconds from the call to the first committed text, and to the end. */
  firstCommit?: number;
  total: number;
}

/** Text that is final. Commits appended give the text so far; a character is never split over two. */
export interface CommitEvent {
  type: "commit";
  text: string;
  ids: Int32Array;
}

/** The canvas after a step: decided tokens, and proposals where `mask` is 1. Of a flow: the draft that a flow's inverse has left. */
export interface RefineEvent {
  type: "refine";
  step: number;
  /** [T] prompt included. */
  ids: Int32Array;
  /** What the result's text were if all proposals held: without the prompt, up to an end-of-text token. "" without a tokenizer. Decoded when it is read. */
  readonly text: string;
  /** [T] 1: not decided yet. */
  mask: Uint8Array;
  /** [T] probability of the token when it was proposed; 1 for given tokens. */
  confidence: Float32Array;
  /** Of a flow: which state was read, L (base noise) to 0 (the text). */
  level?: number;
  /** Of a flow, of a state above the text: share of held-out tokens that such a state reads right, 0 .. 1, where the checkpoint tells it. */
  accuracy?: number;
  /** Of a thought model's draft, which another may replace: after how many rounds of rethinking it is the best. */
  round?: number;
}

export interface FinishEvent {
  type: "finish";
  reason: FinishReason;
  usage: Usage;
  timing: Timing;
  /** Positions that the rule left masked and that were filled greedily. */
  filled: number;
}

/** An event whose text is decoded when it is first read: decoding every draft would cost those who never look at it. */
export function refineEvent(event: Omit<RefineEvent, "text">, decode: () => string): RefineEvent {
  let text: string | undefined;
  return {
    ...event,
    get text() {
      text ??= decode();
      return text;
    },
  };
}

export type GenerationEvent = CommitEvent | RefineEvent | FinishEvent;

export interface GenerationResult {
  text: string;
  /** The new tokens, without the end-of-text token that ended them. */
  ids: Int32Array;
  reason: FinishReason;
  usage: Usage;
  timing: Timing;
  /** Positions that the rule left masked and that were filled greedily. */
  filled: number;
  /**
   * Of a flow model, of flows that were inverted by sweeps: max |u - f(h)|, what running the h that they found forward again is off from
   * the noise u that they were to find it for; the largest of all flows. More than 1e-3 (0.03 with bodies in bf16) is an error (ERR_NOT_CONVERGED).
   */
  residual?: number;
  /**
   * Of a thought model: the thought that the text was written by last or, where drafts were compared, the one that was fitted to it. Of
   * a text that was not finished: the latest there was, even of a fit that ended early (of several drafts, the first's).
   */
  thought?: Thought;
}

/** What runs behind a generation. */
export interface Work<R> {
  run(emit: (event: GenerationEvent) => void): Promise<R>;
  /** Makes a running `run` reject soon. */
  cancel(): void;
  /** What is there so far. */
  partial(): R;
}

/**
 * Starts at once. Iterate it for events, await it for the result, or both; leaving the iteration early cancels the run.
 * An error of the run is thrown to whoever iterates or awaits; if nobody does, it is not reported as unhandled. A signal ends it with
 * ERR_ABORTED, whose cause is the signal's reason. What was made so far is `partial`, here and on the error.
 */
export class Generation<R = GenerationResult> implements AsyncIterable<GenerationEvent>, PromiseLike<R> {
  readonly #work: Work<R>;
  readonly #result: Promise<R>;
  readonly #events: GenerationEvent[] = [];
  #over = false;
  #cause: unknown;
  #wake = new Latch();

  constructor(work: Work<R>, signal?: AbortSignal) {
    this.#work = work;
    this.#result = this.#run(signal);
    this.#result.catch(() => {});
  }

  /** What is there so far; the whole once finished. */
  get partial(): R {
    return this.#work.partial();
  }

  /** Resolves when the run is over, whatever its end. */
  get settled(): Promise<void> {
    return this.#result.then(
      () => {},
      () => {},
    );
  }

  /** Ends the run; it rejects with an error that has this `cause`: ERR_ABORTED, or of its code where it is a NoemaError. */
  cancel(cause: unknown = new NoemaError("ERR_ABORTED", "the generation was cancelled")): void {
    if (this.#over || this.#cause !== undefined) return;
    this.#cause = cause ?? new NoemaError("ERR_ABORTED", "the generation was cancelled");
    this.#work.cancel();
  }

  // biome-ignore lint/suspicious/noThenProperty: awaitable by design, like a query builder
  then<A = R, B = never>(
    fulfilled?: ((result: R) => A | PromiseLike<A>) | null,
    rejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.#result.then(fulfilled, rejected);
  }

  catch<B>(rejected: (reason: unknown) => B | PromiseLike<B>): Promise<R | B> {
    return this.#result.catch(rejected);
  }

  finally(settled: () => void): Promise<R> {
    return this.#result.finally(settled);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<GenerationEvent, void, undefined> {
    let next = 0;
    try {
      for (;;) {
        while (next < this.#events.length) yield this.#events[next++]!;
        if (this.#over) break;
        await this.#wake.promise;
      }
      await this.#result;
    } finally {
      this.cancel();
    }
  }

  async #run(signal: AbortSignal | undefined): Promise<R> {
    const abort = (): void => this.cancel(signal?.reason);
    signal?.addEventListener("abort", abort, { once: true });
    if (signal?.aborted) abort();
    try {
      if (this.#cause !== undefined) throw this.#cause;
      return await this.#work.run((event) => this.#emit(event));
    } catch (error) {
      throw this.#cause === undefined ? withPartial(error, this.partial) : endedBy(this.#cause, this.partial);
    } finally {
      signal?.removeEventListener("abort", abort);
      this.#over = true;
      this.#wake.resolve();
    }
  }

  #emit(event: GenerationEvent): void {
    this.#events.push(event);
    this.#wake.resolve();
    this.#wake = new Latch();
  }
}

class Latch {
  resolve: () => void = () => {};
  readonly promise = new Promise<void>((resolve) => {
    this.resolve = resolve;
  });
}
