/**
 * A native session's behaviour over given logits, in double precision and plain loops: cases that hold logits instead of
 * a checkpoint run the real decoding policies on it, and so do the policies' unit tests.
 */

import { NoemaError } from "../errors.js";
import type {
  NativeCancellation,
  NativeSession,
  PlanRequest,
  PlanResult,
  SessionOptions,
  StepRequest,
  StepResult,
} from "../native/addon.js";
import { RngStream, rngUniform } from "../rng.js";
import { drawIndex, factors, softmax } from "./row-maths.js";

/** Logits [T][V] of one sequence, from its canvas [T]. */
export type LogitsOf = (ids: Int32Array) => ArrayLike<number>[];

export interface LogitsSessionOptions extends SessionOptions {
  logits: LogitsOf;
  maskId: number;
  /** Awaited before every forward pass (tests: to let other things happen). */
  pause?: () => Promise<void>;
}

/** Cancelling ends the call that is under way at its next step. */
export class LogitsCancellation implements NativeCancellation {
  cancelled = false;
  cancel(): void {
    this.cancelled = true;
  }
}

interface Row {
  readonly at: number;
  readonly sequence: number;
  readonly logits: ArrayLike<number>;
  readonly p: Float64Array;
}

export class LogitsSession implements NativeSession {
  forwards = 0;
  readonly #options: LogitsSessionOptions;
  readonly #ids: Int32Array;
  #disposed = false;

  constructor(options: LogitsSessionOptions) {
    this.#options = options;
    this.#ids = options.ids.slice();
  }

  async step(request: StepRequest): Promise<StepResult> {
    this.#set(request.setRows, request.setIds);
    await this.#breathe(request.cancellation);
    const rows = this.#look(request.rows, request.excludedId);
    if (request.convolution) return this.#convolve(request, rows);
    const tokens = Int32Array.from(rows, (row) => this.#draw(request, row));
    const { neighbourhood } = request;
    return {
      tokens,
      confidence: Float32Array.from(rows, (row, i) => row.p[tokens[i]!]!),
      ...(request.entropy ? { entropy: Float32Array.from(rows, ({ p }) => entropyOf(p)) } : {}),
      ...(request.margin ? { margin: Float32Array.from(rows, ({ p }) => marginOf(p)) } : {}),
      ...(request.top ? topOf(rows, request.top, request.excludedId) : {}),
      ...(neighbourhood ? { neighbourhood: Float32Array.from(this.#factors(rows, neighbourhood)) } : {}),
    };
  }

  async run(request: PlanRequest): Promise<PlanResult> {
    this.#set(request.setRows, request.setIds);
    const tokens: number[] = [];
    const confidence: number[] = [];
    let first = 0;
    for (const [i, count] of request.counts.entries()) {
      const rows = request.rows.slice(first, first + count);
      first += count;
      if (count === 0) continue;
      await this.#breathe(request.cancellation);
      const looked = this.#look(rows, request.excludedId);
      const drawn = looked.map((row) => this.#draw({ ...request, step: request.firstStep + i }, row));
      this.#set(rows, Int32Array.from(drawn));
      tokens.push(...drawn);
      confidence.push(...looked.map(({ p }, j) => p[drawn[j]!]!));
      request.onSteps?.(i + 1);
    }
    return { tokens: Int32Array.from(tokens), confidence: Float32Array.from(confidence) };
  }

  canvas(): Int32Array {
    this.#check();
    return this.#ids.slice();
  }

  dispose(): void {
    this.#disposed = true;
  }

  #check(): void {
    if (this.#disposed) throw new NoemaError("ERR_DISPOSED", "the session was disposed");
  }

  async #breathe(cancellation: NativeCancellation | undefined): Promise<void> {
    this.#check();
    await this.#options.pause?.();
    this.#check();
    if ((cancellation as LogitsCancellation | undefined)?.cancelled) throw new NoemaError("ERR_ABORTED", "cancelled");
    this.forwards++;
  }

  #set(rows: Int32Array, ids: Int32Array): void {
    rows.forEach((row, i) => {
      this.#ids[row] = ids[i]!;
    });
  }

  #canvas(sequence: number): Int32Array {
    const { length } = this.#options;
    return this.#ids.slice(sequence * length, (sequence + 1) * length);
  }

  #look(rows: Int32Array, excludedId: number): Row[] {
    const { length } = this.#options;
    const cache = new Map<number, ArrayLike<number>[]>();
    return Array.from(rows, (row) => {
      const sequence = Math.floor(row / length);
      const logits = cache.get(sequence) ?? this.#logits(sequence);
      cache.set(sequence, logits);
      const own = Float64Array.from(logits[row % length]!);
      if (excludedId >= 0) own[excludedId] = Number.NEGATIVE_INFINITY;
      return { at: row % length, sequence, logits: own, p: softmax(own) };
    });
  }

  #logits(sequence: number): ArrayLike<number>[] {
    const { guidance, logits, maskId, length } = this.#options;
    const ids = this.#canvas(sequence);
    const conditional = logits(ids);
    if (!guidance) return conditional;
    const blind = logits(ids.map((id, at) => (guidance.prompt[sequence * length + at] ? maskId : id)));
    return conditional.map((row, at) =>
      Array.from(row, (c, v) => blind[at]![v]! + (guidance.scale + 1) * (c - blind[at]![v]!)),
    );
  }

  #draw({ draw, step }: Pick<StepRequest, "draw" | "step">, row: Row): number {
    if (draw.kind === "argmax") return argmax(row.logits);
    const kept = survivors(row.logits, draw);
    const seed = this.#options.seeds[row.sequence]!;
    const uniform = (lane: number): number => rngUniform(seed, RngStream.token, step, row.at, lane);
    if (draw.kind === "categorical") return categorical(kept, uniform(0));
    return argmax(
      kept.map((logit, v) => (logit > Number.NEGATIVE_INFINITY ? logit - Math.log(-Math.log(uniform(v))) : logit)),
    );
  }

  #factors(rows: readonly Row[], window: NonNullable<StepRequest["neighbourhood"]>): number[] {
    const cache = new Map<number, Float64Array>();
    return rows.map(({ sequence, at }) => {
      const s = cache.get(sequence) ?? factors(this.#masked(sequence), window).s;
      cache.set(sequence, s);
      return s[at]!;
    });
  }

  #masked(sequence: number): boolean[] {
    return Array.from(this.#canvas(sequence), (id) => id === this.#options.maskId);
  }

  /** The ancestral form: see `masked_conv_norm` and `draw` among the ops. */
  #convolve(request: StepRequest, rows: readonly Row[]): StepResult {
    const { convolution, excludedId, step } = request;
    const { candidates, move, stay, temperature, uniforms, ...window } = convolution!;
    const s = this.#factors(rows, window);
    const best = rows.map(({ p }) => bestOf(p, candidates + 1, excludedId));
    const normaliser = this.#normalisers(rows, s, best);
    const tokens = rows.map((row, r) => {
      const weights = best[r]!.map((v) => row.p[v]! * s[r]! * normaliser.get(row.sequence)! * move);
      weights[candidates] = stay;
      const seed = this.#options.seeds[row.sequence]!;
      const uniform = (j: number): number =>
        uniforms?.[r * (candidates + 1) + j] ?? rngUniform(seed, RngStream.remask, step, row.at, j);
      const picked = drawIndex(weights, uniform, temperature);
      return picked === candidates ? this.#options.maskId : best[r]![picked]!;
    });
    return { tokens: Int32Array.from(tokens), confidence: Float32Array.from(rows, ({ p }, r) => p[tokens[r]!]!) };
  }

  #normalisers(rows: readonly Row[], s: readonly number[], best: readonly number[][]): Map<number, number> {
    const mass = new Map<number, { masked: number; weighted: number }>();
    rows.forEach(({ sequence, p }, r) => {
      const sum = mass.get(sequence) ?? { masked: 0, weighted: 0 };
      sum.masked++;
      sum.weighted += s[r]! * best[r]!.reduce((total, v) => total + p[v]!, 0);
      mass.set(sequence, sum);
    });
    return new Map([...mass].map(([at, { masked, weighted }]) => [at, masked / (weighted + 1e-12)]));
  }
}

function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let v = 1; v < values.length; v++) if (values[v]! > values[best]!) best = v;
  return best;
}

/** Ids of the `count` largest values, falling; ties go to the lower id. */
export function bestOf(values: ArrayLike<number>, count: number, excludedId = -1): number[] {
  const ids = Array.from({ length: values.length }, (_, v) => v).filter((v) => v !== excludedId);
  return ids.sort((a, b) => values[b]! - values[a]! || a - b).slice(0, count);
}

function entropyOf(p: Float64Array): number {
  return p.reduce((sum, q) => (q > 0 ? sum - q * Math.log(q) : sum), 0);
}

function marginOf(p: Float64Array): number {
  const [first, second] = bestOf(p, 2);
  return p[first!]! - (second === undefined ? 0 : p[second]!);
}

function topOf(
  rows: readonly Row[],
  count: number,
  excludedId: number,
): Pick<StepResult, "topIds" | "topProbabilities"> {
  const ids = rows.map(({ p }) => bestOf(p, count, excludedId));
  return {
    topIds: Int32Array.from(ids.flat()),
    topProbabilities: Float32Array.from(ids.flatMap((best, r) => best.map((v) => rows[r]!.p[v]!))),
  };
}

/** logit / temperature where top_k, then top_p keep the token, -Infinity elsewhere. */
function survivors(logits: ArrayLike<number>, { temperature, topK, topP }: StepRequest["draw"]): number[] {
  const scaled = Array.from(logits, (logit) => logit / temperature);
  const order = bestOf(scaled, topK > 0 ? topK : scaled.length);
  const p = softmax(order.map((v) => scaled[v]!));
  let mass = 0;
  const kept = new Set(
    order.filter((_, i) => {
      const needed = mass < topP;
      mass += p[i]!;
      return needed;
    }),
  );
  return scaled.map((logit, v) => (kept.has(v) ? logit : Number.NEGATIVE_INFINITY));
}

function categorical(logits: readonly number[], uniform: number): number {
  const p = softmax(logits);
  let mass = 0;
  const chosen = p.findIndex((q) => {
    mass += q;
    return mass > uniform;
  });
  return chosen >= 0 ? chosen : argmax(p);
}
