/** One canvas under the caller's control: look at positions, decide tokens, look again. For rules of one's own. */

import { cancellable } from "./cancellation.js";
import {
  checkNames,
  checkNumber,
  checkSignal,
  invalid,
  isList,
  parseOptions,
  sharedOptions,
} from "./decoding/options.js";
import { NoemaError } from "./errors.js";
import { disposed, Handle } from "./handle.js";
import { admitted, type ModelOwner } from "./model.js";
import type { NativeCancellation, NativeMaskedModel, NativeSession, StepRequest, StepResult } from "./native/addon.js";
import { infillCanvas, type Limits } from "./request.js";
import type { Seed } from "./rng.js";

export interface SessionOptions {
  /** Token ids, null (or the mask token) where nothing is decided. */
  ids: ArrayLike<number | null>;
  seed?: Seed;
  /** Classifier-free guidance scale: what is given is the condition. */
  guidance?: number;
}

export interface LookOptions {
  /** Ascending. Default: every masked position. */
  positions?: ArrayLike<number>;
  /** Default: 0, the likeliest token. */
  temperature?: number;
  topK?: number;
  topP?: number;
  /** Report the entropy of each position, in nats. */
  entropy?: boolean;
  /** Report how much the likeliest token leads by. */
  margin?: boolean;
  /** Report so many best tokens of each position. */
  top?: number;
  signal?: AbortSignal;
}

/** What a look shows, index by index of `positions`. */
export interface Look extends StepResult {
  positions: Int32Array;
}

/** @internal */
export interface SessionParts {
  readonly native: NativeMaskedModel;
  readonly limits: Limits;
  readonly owner: ModelOwner;
  readonly release: (session: Session) => void;
}

const sessionOptions = ["ids", "seed", "guidance"];
const lookOptions = ["positions", "temperature", "topK", "topP", "entropy", "margin", "top", "signal"];

export class Session extends Handle {
  readonly #native: NativeSession;
  readonly #parts: SessionParts;
  readonly #ids: Int32Array;
  readonly #pending = new Map<number, number>();
  #step = 0;

  /** @internal Use `model.session`. */
  constructor(parts: SessionParts, options: SessionOptions) {
    super("session");
    const { native: model, limits } = parts;
    checkNames(options, sessionOptions, "session");
    const { ids, seed } = infillCanvas(options, limits);
    if (ids.length === 0) throw new NoemaError("ERR_INVALID_ARGUMENT", "session: ids: expected at least one");
    const { guidance } = parseOptions({ guidance: options.guidance }, { guidance: sharedOptions.guidance }, "session");
    const prompt = Uint8Array.from(ids, (id) => (id === limits.maskId ? 0 : 1));
    this.#native = model.session({
      batch: 1,
      length: ids.length,
      ids,
      seeds: BigUint64Array.of(seed),
      ...(guidance ? { guidance: { scale: guidance as number, prompt } } : {}),
    });
    this.#parts = parts;
    this.#ids = ids;
  }

  /** The ids as they stand, mask tokens where nothing is decided. */
  canvas(): Int32Array {
    this.check();
    return this.#ids.slice();
  }

  /** Decides tokens; null takes a decision back. */
  set(positions: ArrayLike<number>, ids: ArrayLike<number | null>): void {
    this.check();
    this.#checkPositions(positions);
    if (!isList(ids) || positions.length !== ids.length)
      throw invalid("ids", ids, `${positions.length} of them, one per position`);
    const { vocabSize, maskId } = this.#parts.limits;
    const checked = Array.from(positions, (at, i) => {
      this.#checkPosition(at, `positions[${i}]`);
      const id = ids[i] ?? maskId;
      return [at, checkNumber(id, { min: 0, max: vocabSize - 1, integer: true }, `ids[${i}]`)] as const;
    });
    for (const [at, id] of checked) {
      this.#ids[at] = id;
      this.#pending.set(at, id);
    }
  }

  /** One forward pass: proposals for positions, and how sure the model is of them. Nothing is decided by it. */
  async look(options: LookOptions = {}): Promise<Look> {
    this.check();
    const request = this.#request(options);
    const { signal } = options;
    const { owner } = this.#parts;
    const look = (cancellation: NativeCancellation) =>
      this.#native.step({ ...request, step: this.#step++, cancellation });
    try {
      const seen = await admitted(owner, () => cancellable(owner.addon, signal, look));
      this.#settle(request);
      return { positions: request.rows, ...seen };
    } catch (error) {
      throw this.disposed && !signal?.aborted ? disposed("session") : error;
    }
  }

  protected override free(): void {
    this.#native.dispose();
    this.#parts.release(this);
  }

  /** Forgets decisions that the native canvas has now; those of a look that failed are handed over again by the next. */
  #settle({ setRows, setIds }: Pick<StepRequest, "setRows" | "setIds">): void {
    setRows.forEach((at, i) => {
      if (this.#pending.get(at) === setIds[i]) this.#pending.delete(at);
    });
  }

  #request(options: LookOptions): Omit<StepRequest, "step"> {
    checkNames(options, lookOptions, "look");
    checkSignal(options.signal);
    const { temperature = 0, topK = 0, topP = 1, entropy = false, margin = false, top } = options;
    const { temperature: t, topK: k, topP: p } = parseOptions({ temperature, topK, topP }, drawOptions, "look");
    const rows = this.#rows(options.positions);
    const set = [...this.#pending];
    return {
      setRows: Int32Array.from(set, ([at]) => at),
      setIds: Int32Array.from(set, ([, id]) => id),
      rows,
      draw: { kind: t === 0 ? "argmax" : "gumbel", temperature: t as number, topK: k as number, topP: p as number },
      excludedId: this.#parts.limits.maskId,
      ...(entropy ? { entropy } : {}),
      ...(margin ? { margin } : {}),
      ...(top === undefined ? {} : { top: this.#top(top) }),
    };
  }

  #top(top: number): number {
    return checkNumber(top, { min: 1, max: Math.min(1024, this.#parts.limits.vocabSize - 1), integer: true }, "top");
  }

  #rows(positions: ArrayLike<number> | undefined): Int32Array {
    if (positions === undefined) {
      return Int32Array.from([...this.#ids.keys()].filter((at) => this.#ids[at] === this.#parts.limits.maskId));
    }
    this.#checkPositions(positions);
    return Int32Array.from(Array.from(positions), (at, i) => {
      this.#checkPosition(at, `positions[${i}]`);
      if (i > 0 && at <= positions[i - 1]!) throw invalid(`positions[${i}]`, at, "ascending positions");
      return at;
    });
  }

  /** What is no list, or has more positions than there are, before each is looked at. */
  #checkPositions(positions: unknown): void {
    const most = this.#ids.length;
    if (!isList(positions) || positions.length > most)
      throw invalid("positions", positions, `a list of positions, at most ${most}`);
  }

  #checkPosition(at: number, name: string): void {
    checkNumber(at, { min: 0, max: this.#ids.length - 1, integer: true }, name);
  }
}

const { temperature, topK, topP } = sharedOptions;
const drawOptions = { temperature, topK, topP };
