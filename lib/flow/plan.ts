/** How the flows of a stack are inverted, and which way is the fastest. */

import { cancellable, orAborted } from "../cancellation.js";
import type { FlowConfig } from "../checkpoint/config.js";
import { checkNames, checkNumber, invalid } from "../decoding/options.js";
import { type NoemaError, unknownOption } from "../errors.js";
import type {
  FlowInverse,
  InversePlan,
  InverseRequest,
  NativeCancellation,
  NativeFlowModel,
  State,
} from "../native/addon.js";
import { latentNoise } from "../normals.js";

/** "sequential" and "jacobi" for all flows, a plan per flow, or "auto": each flow is measured once in every way. */
export type Inversion = "auto" | InversePlan["method"] | readonly InversePlan[];

const methods = ["sequential", "jacobi"];
const jacobiNames = ["modules", "sweeps", "tolerance", "fromZeros"] as const;
const planNames = ["method", ...jacobiNames];
const MOST = 2 ** 24;

/** The plans, one per flow; "auto" is left to be measured. */
export function checkInversion(inversion: Inversion | undefined, { flows }: FlowConfig): "auto" | InversePlan[] {
  if (inversion === undefined) return flows.map(() => ({ method: "sequential" as const }));
  if (inversion === "auto") return inversion;
  if (typeof inversion === "string") {
    if (!methods.includes(inversion)) throw unknownOption(inversion, ["auto", ...methods], "inversion");
    return flows.map(() => ({ method: inversion }));
  }
  if (!Array.isArray(inversion) || inversion.length !== flows.length)
    throw invalid(
      "inversion",
      inversion,
      `"auto", "sequential", "jacobi", or a plan for each of the ${flows.length} flows`,
    );
  return inversion.map(checkPlan);
}

function checkPlan(plan: InversePlan, l: number): InversePlan {
  const at = `inversion[${l}]`;
  checkNames(plan, planNames, at);
  if (!methods.includes(plan.method)) throw unknownOption(String(plan.method), methods, `${at}.method`);
  if (plan.modules !== undefined) checkNumber(plan.modules, { min: 1, max: MOST, integer: true }, `${at}.modules`);
  if (plan.sweeps !== undefined) checkNumber(plan.sweeps, { min: 0, max: MOST, integer: true }, `${at}.sweeps`);
  if (plan.tolerance !== undefined) checkNumber(plan.tolerance, { min: 0, max: 1 }, `${at}.tolerance`);
  if (plan.fromZeros !== undefined && typeof plan.fromZeros !== "boolean")
    throw invalid(`${at}.fromZeros`, plan.fromZeros, "true or false");
  const idle = plan.method === "jacobi" ? undefined : jacobiNames.find((name) => plan[name] !== undefined);
  if (idle !== undefined)
    throw invalid(`${at}.${idle}`, plan[idle], 'nothing beside method "sequential": it is of jacobi');
  return { ...plan };
}

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

/** Whose flows are measured. */
interface PlanHost {
  readonly native: NativeFlowModel;
  readonly config: FlowConfig;
  createCancellation(): NativeCancellation;
}

/** Texts that go through the inverses together, and positions of each. */
export interface InversionShape {
  batch: number;
  positions: number;
}

interface MeasureOptions {
  /** Ends a way as soon as it has taken longer than the best of its flow; it counts as taking for ever. */
  hasty?: boolean;
  onMeasure?: ((measure: PlanMeasure) => void) | undefined;
  signal?: AbortSignal | undefined;
}

/**
 * Inverts fresh noise of the given shape with every candidate for every flow, twice, and takes each one's better time. The states
 * that a flow is measured on are those that the flows above it really give.
 */
export async function measurePlans(
  host: PlanHost,
  { batch, positions }: InversionShape,
  { hasty = false, onMeasure, signal }: MeasureOptions = {},
): Promise<PlanMeasure[]> {
  const { flows, latentSize, patchSize } = host.config;
  const length = positions * patchSize;
  const request = { ids: new Int32Array(batch * length), batch, length };
  let latents: State = latentNoise(0, batch * length * latentSize);
  const measures: PlanMeasure[] = [];
  for (let flow = flows.length - 1; flow >= 0; flow--) {
    let next: State = latents;
    let best = Number.POSITIVE_INFINITY;
    let text: Int32Array | undefined;
    for (const plan of candidates(positions)) {
      const plans = flows.map((_, l): InversePlan => (l === flow ? plan : { method: "sequential" }));
      let milliseconds = Number.POSITIVE_INFINITY;
      const ask = { ...request, latents, level: flow + 1, to: flow, plans };
      let sweeps = 0;
      let last: FlowInverse | undefined;
      for (let run = 0; run < 2; run++) {
        const limit = hasty ? best : Number.POSITIVE_INFINITY;
        const { found, ...time } = await timed(host, ask, { limit, signal });
        milliseconds = Math.min(milliseconds, time.milliseconds);
        best = Math.min(best, milliseconds);
        if (!found) break;
        sweeps = found.sweeps[flow]!.reduce((sum, count) => sum + count, 0) / batch;
        if (plan.method === "sequential") next = found.state;
        last = found;
      }
      const judged = last && !hasty ? await judge(host, ask, last, signal) : undefined;
      text ??= judged?.tokens;
      const fidelity = judged && { residual: judged.residual, differing: countDiffering(judged.tokens, text!) };
      measures.push({ flow, plan, milliseconds, sweeps, ...fidelity });
      onMeasure?.(measures.at(-1)!);
    }
    latents = next;
  }
  return measures;
}

function countDiffering(tokens: Int32Array, others: Int32Array): number {
  return tokens.reduce((sum, token, at) => sum + (token === others[at] ? 0 : 1), 0);
}

/** What a way has found, run forward again, and what it becomes. Of sweeps the first is part of their own time, wherever they are used. */
function judge(
  host: PlanHost,
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
  host: PlanHost,
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
  readonly #host: PlanHost;
  readonly #measured = new Map<string, Measuring>();

  constructor(host: PlanHost) {
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
