/** Every way of inverting the flows of a stack, measured: which one is the fastest. */

import { cancellable, orAborted } from "../cancellation.js";
import type { FlowConfig } from "../checkpoint/config.js";
import type { NoemaError } from "../errors.js";
import type { FlowInverse, InversePlan, InverseRequest, State } from "../native/addon.js";
import { latentNoise } from "../normals.js";
import type { FlowHost } from "./job.js";
import type { InversionShape } from "./plan.js";

/** One way of inverting one flow, measured. */
export interface PlanMeasure {
  flow: number;
  plan: InversePlan;
  /** Per call, of the whole batch: the better of two. */
  milliseconds: number;
  /** Mean over the sequences; of a sequential plan, its positions. */
  sweeps: number;
  /** max |u - f(h)| of what was found, run forward again. These two: unless only times are asked for, as "auto" does. */
  residual?: number;
  /** Tokens, of all sequences, that are not those of the sequential inverse; flows below are inverted sequentially. */
  differing?: number;
}

/** What is tried for every flow: sequential, plain sweeps, and modules of about 16 and 64 positions. */
function candidates(positions: number): InversePlan[] {
  const counts = new Set([1, ...[16, 64].map((size) => Math.round(positions / size)).filter((count) => count > 1)]);
  return [{ method: "sequential" }, ...Array.from(counts, (modules): InversePlan => ({ method: "jacobi", modules }))];
}

interface MeasureOptions {
  /** Ends a way as soon as it has taken longer than the best of its flow; it counts as taking for ever. */
  hasty?: boolean;
  onMeasure?: ((measure: PlanMeasure) => void) | undefined;
  signal?: AbortSignal | undefined;
}

/**
 * Inverts fresh noise of the given shape with every candidate for every flow, twice, and takes each one's better time; sweeps that come
 * near the best also from zeros. The states that a flow is measured on are those that the flows above it really give.
 */
export async function measurePlans(
  host: FlowHost,
  { batch, positions }: InversionShape,
  options: MeasureOptions = {},
): Promise<PlanMeasure[]> {
  const { flows, latentSize, patchSize } = host.config;
  const length = positions * patchSize;
  const request = { ids: new Int32Array(batch * length), batch, length };
  let latents: State = latentNoise(0, batch * length * latentSize);
  const measures: PlanMeasure[] = [];
  for (let flow = flows.length - 1; flow >= 0; flow--) {
    const ways: Ways = new Ways(host, { ...request, latents, level: flow + 1, to: flow }, options);
    for (const plan of candidates(positions)) await ways.measure(plan);
    const swept = ways.best("jacobi");
    if (swept.milliseconds <= NEAR * ways.best().milliseconds) await ways.measure({ ...swept.plan, fromZeros: true });
    measures.push(...ways.measures);
    latents = ways.state;
  }
  return measures;
}

/** Where sweeps start makes a difference of a few of them. */
const NEAR = 2;

/** The ways of inverting one flow, measured one after the other, position after position first. */
class Ways {
  readonly measures: PlanMeasure[] = [];
  /** What the flow leads to. */
  state: State = new Float64Array(0);
  #text: Int32Array | undefined;

  constructor(
    readonly host: FlowHost,
    readonly request: InverseRequest & { to: number },
    readonly options: MeasureOptions,
  ) {}

  best(method?: InversePlan["method"]): PlanMeasure {
    const own = this.measures.filter(({ plan }) => method === undefined || plan.method === method);
    return own.reduce((best, one) => (one.milliseconds < best.milliseconds ? one : best));
  }

  async measure(plan: InversePlan): Promise<void> {
    const { host, request, measures } = this;
    const { hasty = false, onMeasure, signal } = this.options;
    const flow = request.to;
    const plans = host.config.flows.map((_, l): InversePlan => (l === flow ? plan : { method: "sequential" }));
    const ask = { ...request, plans };
    let milliseconds = Number.POSITIVE_INFINITY;
    let last: FlowInverse | undefined;
    for (let run = 0; run < 2; run++) {
      const best = Math.min(milliseconds, ...measures.map((one) => one.milliseconds));
      const { found, ...time } = await timed(host, ask, { limit: hasty ? best : Number.POSITIVE_INFINITY, signal });
      milliseconds = Math.min(milliseconds, time.milliseconds);
      if (!found) break;
      last = found;
    }
    if (last && plan.method === "sequential") this.state = last.state;
    const sweeps = last ? last.sweeps[flow]!.reduce((sum, count) => sum + count, 0) / request.batch : 0;
    const judged = last && !hasty ? await judge(host, ask, last, signal) : undefined;
    this.#text ??= judged?.tokens;
    const fidelity = judged && { residual: judged.residual, differing: countDiffering(judged.tokens, this.#text!) };
    measures.push({ flow, plan, milliseconds, sweeps, ...fidelity });
    onMeasure?.(measures.at(-1)!);
  }
}

function countDiffering(tokens: Int32Array, others: Int32Array): number {
  return tokens.reduce((sum, token, at) => sum + (token === others[at] ? 0 : 1), 0);
}

/** What a way has found, run forward again, and what it becomes. Of sweeps the first is part of their own time, wherever they are used. */
function judge(
  host: FlowHost,
  ask: InverseRequest & { to: number },
  found: FlowInverse,
  signal: AbortSignal | undefined,
): Promise<{ residual: number; tokens: Int32Array }> {
  const { native } = host;
  return cancellable(host, signal, async (cancellation) => {
    const isChecked = found.residuals[ask.to]!.length > 0;
    const { residuals } = isChecked ? found : await native.invert({ ...ask, check: true, cancellation });
    const below = { ...ask, latents: found.state, level: ask.to, to: 0, plans: [], cancellation };
    const { tokens } = ask.to === 0 ? found : await native.invert(below);
    return { residual: Math.max(...residuals[ask.to]!), tokens };
  });
}

/** One inverse and its time; nothing, and infinite, where it is not done within `limit` milliseconds, or does not converge while others do. */
async function timed(
  host: FlowHost,
  request: InverseRequest,
  { limit, signal }: { limit: number; signal: AbortSignal | undefined },
): Promise<{ found?: FlowInverse; milliseconds: number }> {
  const late = Number.isFinite(limit) ? [AbortSignal.timeout(Math.ceil(limit))] : [];
  const ends = AbortSignal.any([...late, ...(signal ? [signal] : [])]);
  const started = performance.now();
  try {
    const found = await cancellable(host, ends, (cancellation) => host.native.invert({ ...request, cancellation }));
    return { found, milliseconds: performance.now() - started };
  } catch (error) {
    const isOut = late[0]?.aborted || (late.length > 0 && (error as NoemaError).code === "ERR_NOT_CONVERGED");
    if (signal?.aborted || !isOut) throw error;
    return { milliseconds: Number.POSITIVE_INFINITY };
  }
}

interface Measuring {
  readonly plans: Promise<InversePlan[]>;
  readonly stop: AbortController;
  waiting: number;
}

/** What "auto" means for texts of a shape: the fastest way of every flow, measured once, as long as anybody waits for it. */
export class FastestPlans {
  readonly #host: FlowHost;
  readonly #measured = new Map<string, Measuring>();

  constructor(host: FlowHost) {
    this.#host = host;
  }

  async of(shape: InversionShape, signal: AbortSignal): Promise<InversePlan[]> {
    const key = `${shape.batch} ${shape.positions}`;
    const measuring = this.#measured.get(key) ?? this.#measure(key, shape);
    measuring.waiting++;
    try {
      return await orAborted(measuring.plans, signal);
    } finally {
      measuring.waiting--;
      if (signal.aborted && measuring.waiting === 0) this.#giveUp(key, measuring);
    }
  }

  #measure(key: string, shape: InversionShape): Measuring {
    const stop = new AbortController();
    const measures = measurePlans(this.#host, shape, { hasty: true, signal: stop.signal });
    const plans = measures.then((all) => fastestPlans(all, this.#host.config));
    const measuring = { plans, stop, waiting: 0 };
    this.#measured.set(key, measuring);
    plans.catch(() => this.#giveUp(key, measuring));
    return measuring;
  }

  /** Whoever asks next has it measured anew. */
  #giveUp(key: string, measuring: Measuring): void {
    if (this.#measured.get(key) === measuring) this.#measured.delete(key);
    measuring.stop.abort();
  }
}

function fastestPlans(measures: readonly PlanMeasure[], { flows }: FlowConfig): InversePlan[] {
  return flows.map((_, l) => {
    const own = measures.filter(({ flow }) => flow === l);
    return own.reduce((best, one) => (one.milliseconds < best.milliseconds ? one : best)).plan;
  });
}
