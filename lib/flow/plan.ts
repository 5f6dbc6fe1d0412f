/** How the flows of a stack are inverted. */

import type { FlowConfig } from "../checkpoint/config.js";
import { checkNames, checkNumber, checkWord, invalid } from "../decoding/options.js";
import { unknownOption } from "../errors.js";
import type { InversePlan } from "../native/addon.js";

/** "sequential" and "jacobi" for all flows, a plan per flow, or "auto": each flow is measured once in every way. */
export type Inversion = "auto" | InversePlan["method"] | readonly InversePlan[];

const methods = ["sequential", "jacobi"];
const jacobiNames = ["modules", "sweeps", "tolerance", "fromZeros"] as const;
const planNames = ["method", ...jacobiNames];
const MOST = 2 ** 24;
/** Looser, and sweeps rest where another text is. */
const LOOSEST = 1e-2;

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
  checkWord(plan.method, methods, `${at}.method`);
  if (plan.modules !== undefined) checkNumber(plan.modules, { min: 1, max: MOST, integer: true }, `${at}.modules`);
  if (plan.sweeps !== undefined) checkNumber(plan.sweeps, { min: 0, max: MOST, integer: true }, `${at}.sweeps`);
  if (plan.tolerance !== undefined) checkNumber(plan.tolerance, { min: 0, max: LOOSEST }, `${at}.tolerance`);
  if (plan.fromZeros !== undefined && typeof plan.fromZeros !== "boolean")
    throw invalid(`${at}.fromZeros`, plan.fromZeros, "true or false");
  const idle = plan.method === "jacobi" ? undefined : jacobiNames.find((name) => plan[name] !== undefined);
  if (idle !== undefined)
    throw invalid(`${at}.${idle}`, plan[idle], 'nothing beside method "sequential": it is of jacobi');
  return { ...plan };
}

/** Texts that go through the inverses together, and positions of each. */
export interface InversionShape {
  batch: number;
  positions: number;
}

/** A plan in words. */
export function describePlan({ method, modules = 1, fromZeros }: InversePlan): string {
  if (method === "sequential") return method;
  return `${method}, ${modules} ${modules === 1 ? "module" : "modules"}${fromZeros ? ", from zeros" : ""}`;
}
