/** How the flows of a stack are inverted, and which way is the fastest. */

import type { FlowConfig } from "../checkpoint/config.js";
import { checkNames, checkNumber, invalid } from "../decoding/options.js";
import { unknownOption } from "../errors.js";
import type { FlowInverse, InversePlan, NativeFlowModel, State } from "../native/addon.js";
import { latentNoise } from "../normals.js";

/** "sequential" and "jacobi" for all flows, a plan per flow, or "auto": each flow is measured once in every way. */
export type Inversion = "auto" | InversePlan["method"] | readonly InversePlan[];

const methods = ["sequential", "jacobi"];
const planNames = ["method", "modules", "sweeps", "tolerance", "fromZeros"];
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
  return { ...plan };
}

/** One way of inverting one flow, measured. */
export interface PlanMeasure {
  flow: number;
  plan: InversePlan;
  milliseconds: number;
  /** Over the sequences. */
  sweeps: number;
  /** max |u - f(h)| of what was found, run forward again. */
  residual: number;
  /** Tokens, of all sequences, that are not those of the sequential inverse. */
  differing: number;
}

/** What is tried for every flow: sequential, plain sweeps, and modules of about 16 and 64 positions. */
function candidates(positions: number): InversePlan[] {
  const counts = new Set([1, ...[16, 64].map((size) => Math.round(positions / size)).filter((count) => count > 1)]);
  return [{ method: "sequential" }, ...Array.from(counts, (modules): InversePlan => ({ method: "jacobi", modules }))];
}

/**
 * Inverts fresh noise of the given shape with every candidate for every flow, twice, and takes each one's better time. The states
 * that a flow is measured on are those that the flows above it really give. Those below it are inverted sequentially, for the tokens.
 */
export async function measurePlans(
  native: NativeFlowModel,
  config: FlowConfig,
  { batch, positions }: { batch: number; positions: number },
): Promise<PlanMeasure[]> {
  const { flows, latentSize, patchSize } = config;
  const length = positions * patchSize;
  const request = { ids: new Int32Array(batch * length), batch, length };
  let latents: State = latentNoise(0, batch * length * latentSize);
  const measures: PlanMeasure[] = [];
  for (let flow = flows.length - 1; flow >= 0; flow--) {
    let next: State = latents;
    let text: Int32Array | undefined;
    for (const plan of candidates(positions)) {
      const plans = flows.map((_, l): InversePlan => (l === flow ? plan : { method: "sequential" }));
      let milliseconds = Number.POSITIVE_INFINITY;
      const inverse = { ...request, latents, level: flow + 1, to: flow, plans };
      let found: FlowInverse | undefined;
      for (let run = 0; run < 2; run++) {
        const started = performance.now();
        found = await native.invert(inverse);
        milliseconds = Math.min(milliseconds, performance.now() - started);
      }
      // Sweeps are run forward again wherever they are used, which is part of their time; the sequential inverse only here.
      if (plan.method === "sequential") found = await native.invert({ ...inverse, check: true });
      const { state, sweeps, residuals } = found!;
      const { tokens } = flow === 0 ? found! : await native.invert({ ...request, latents: state, level: flow });
      if (plan.method === "sequential") [next, text] = [state, tokens];
      measures.push({
        ...{ flow, plan, milliseconds, sweeps: sweeps[flow]!.reduce((sum, count) => sum + count, 0) / batch },
        residual: Math.max(...residuals[flow]!),
        differing: tokens.reduce((sum, token, at) => sum + (token === text![at] ? 0 : 1), 0),
      });
    }
    latents = next;
  }
  return measures;
}

/** The fastest of every flow's. */
export function fastestPlans(measures: readonly PlanMeasure[], { flows }: FlowConfig): InversePlan[] {
  return flows.map((_, l) => {
    const own = measures.filter(({ flow }) => flow === l);
    return own.reduce((best, one) => (one.milliseconds < best.milliseconds ? one : best)).plan;
  });
}
