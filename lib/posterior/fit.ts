/** How a thought is fitted to a text: options of the fast loop (ltm.md section 2), by default those that the checkpoint names. */

import type { Inference, ThoughtConfig } from "../checkpoint/config.js";
import { fastLoopRanges } from "../checkpoint/noema-thought.js";
import { checkNames, checkNumber, checkWord, invalid, isList } from "../decoding/options.js";
import type { NativeFit } from "../native/addon.js";

export interface FitOptions {
  /** T_fast: more steps are more thought. Given alone, rates and start follow, see `paced`. */
  steps?: number;
  /** Adam's rate at the first step and at the last; or one for all. */
  rate?: number | readonly [number, number];
  /** How the rate goes between them; "cosine" falls from the second to a tenth of it. */
  schedule?: "linear" | "cosine" | "constant";
  /** "resample" draws anew at every step; "shared" keeps one draw, as the released code does: its figures are then no bounds. */
  noise?: "resample" | "shared";
  /** Of the variances at the start. */
  logVarianceInit?: number;
  /** Keeps the variances as they start. */
  constantLogVariance?: boolean;
  /** Nats per token: a text's loop ends when its objective moves by less over a few steps. Default: 0, never. */
  tolerance?: number;
}

const names = ["steps", "rate", "schedule", "noise", "logVarianceInit", "constantLogVariance", "tolerance"];
const schedules = ["linear", "cosine", "constant"] as const;
const noises = ["resample", "shared"] as const;

/** What of the loop belongs together. */
export type Pace = Pick<Inference, "steps" | "learningRate" | "schedule" | "logVarianceInit">;

/** How many times the steps make room for a cosine: it falls to a tenth, so it goes little more than half as far as its first rate would. */
const ROOM = 2.5;

/**
 * The loop in another number of steps. Adam moves a log-variance by about the rate at every step, and for what it lacks of the prior's in
 * the end every coordinate pays (ltm.md section 2.4). So fewer steps start as much nearer; more have rates as much smaller, or, where
 * there is room for it, rates that fall by a cosine, and what was found settles.
 */
export function paced(own: Pace, steps: number): Pace {
  const { learningRate, schedule, logVarianceInit } = own;
  const [first, last] = schedule === "constant" ? [learningRate[0], learningRate[0]] : learningRate;
  const share = own.steps > 0 ? steps / own.steps : 1;
  if (share <= 1) return { ...own, steps, logVarianceInit: logVarianceInit * share };
  if (schedule === "cosine") return { ...own, steps };
  if (share >= ROOM) return { steps, learningRate: [last, last], schedule: "cosine", logVarianceInit };
  return { steps, learningRate: [first / share, last / share], schedule, logVarianceInit };
}

/** The model's own, in the number of steps asked for unless more is said of how they go. */
function paceOf(options: FitOptions, inference: Inference): Pace {
  const { steps = inference.steps, rate, schedule, logVarianceInit } = options;
  const { constantLogVariance = inference.constantLogVariance } = options;
  checkNumber(steps, { ...fastLoopRanges.steps, integer: true }, "think.steps");
  const isFree = rate === undefined && schedule === undefined && logVarianceInit === undefined && !constantLogVariance;
  return isFree ? paced(inference, steps) : { ...inference, steps };
}

export function fitSettings(options: FitOptions, { inference }: Pick<ThoughtConfig, "inference">): NativeFit {
  checkNames(options, names, "think");
  const pace = paceOf(options, inference);
  const { rate = pace.learningRate, schedule = pace.schedule, logVarianceInit = pace.logVarianceInit } = options;
  const { constantLogVariance = inference.constantLogVariance, noise = inference.noise, tolerance = 0 } = options;
  checkNumber(tolerance, { min: 0 }, "think.tolerance");
  checkNumber(logVarianceInit, fastLoopRanges.logVarianceInit, "think.logVarianceInit");
  checkWord(schedule, schedules, "think.schedule");
  checkWord(noise, noises, "think.noise");
  if (typeof constantLogVariance !== "boolean")
    throw invalid("think.constantLogVariance", constantLogVariance, "true or false");
  const [firstRate, lastRate] = ratesOf(rate);
  return { steps: pace.steps, firstRate, lastRate, schedule, noise, logVarianceInit, constantLogVariance, tolerance };
}

function ratesOf(rate: number | readonly [number, number]): [number, number] {
  const [first, last, ...others] = typeof rate === "number" ? [rate, rate] : isList(rate) ? Array.from(rate) : [];
  if (last === undefined || others.length > 0) throw invalid("think.rate", rate, "a number, or the first and the last");
  checkNumber(first, fastLoopRanges.rate, "think.rate");
  checkNumber(last, fastLoopRanges.rate, "think.rate");
  return [first!, last];
}
