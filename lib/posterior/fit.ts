/** How a thought is fitted to a text: options of the fast loop (ltm.md section 2), by default those that the checkpoint names. */

import type { ThoughtConfig } from "../checkpoint/config.js";
import { checkNames, checkNumber, invalid } from "../decoding/options.js";
import { unknownOption } from "../errors.js";
import type { NativeFit } from "../native/addon.js";

export interface FitOptions {
  /** T_fast: more steps are more thought. */
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
const MOST_STEPS = 1 << 16;

export function fitSettings(options: FitOptions, { inference }: Pick<ThoughtConfig, "inference">): NativeFit {
  checkNames(options, names, "think");
  const { steps = inference.steps, rate = inference.learningRate, tolerance = 0 } = options;
  const { schedule = inference.schedule, noise = inference.noise } = options;
  const { logVarianceInit = inference.logVarianceInit, constantLogVariance = inference.constantLogVariance } = options;
  checkNumber(steps, { min: 0, max: MOST_STEPS, integer: true }, "think.steps");
  checkNumber(tolerance, { min: 0 }, "think.tolerance");
  checkNumber(logVarianceInit, { min: -30, max: 10 }, "think.logVarianceInit");
  if (!schedules.includes(schedule)) throw unknownOption(String(schedule), schedules, "think.schedule");
  if (!noises.includes(noise)) throw unknownOption(String(noise), noises, "think.noise");
  if (typeof constantLogVariance !== "boolean")
    throw invalid("think.constantLogVariance", constantLogVariance, "true or false");
  const [firstRate, lastRate] = ratesOf(rate);
  return { steps, firstRate, lastRate, schedule, noise, logVarianceInit, constantLogVariance, tolerance };
}

function ratesOf(rate: number | readonly [number, number]): [number, number] {
  const [first, last, ...others] = typeof rate === "number" ? [rate, rate] : Array.from(rate ?? []);
  if (last === undefined || others.length > 0) throw invalid("think.rate", rate, "a number, or the first and the last");
  checkNumber(first, { min: 0, max: 10 }, "think.rate");
  checkNumber(last, { min: 0, max: 10 }, "think.rate");
  return [first!, last];
}
