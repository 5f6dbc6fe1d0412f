/** The latents and the fast loop that a fresh thought model is to have. */

import type { Inference } from "../../checkpoint/config.js";
import { fastLoopRanges } from "../../checkpoint/noema-thought.js";
import { checkNames, checkNumber, checkWord, invalid } from "../../decoding/options.js";
import { NoemaError } from "../../errors.js";
import { isObject } from "../../json.js";
import { fitSettings, paced } from "../../posterior/fit.js";

export interface ThoughtShape {
  /** N, latent vectors of all layers together: a multiple of the layers. Default: 8 per layer. */
  latents?: number;
  /** Keys that a position sees, itself included. Default: 256. */
  window?: number;
  /** Whether embedding and head are one matrix, as in the released model. Default: true. */
  tied?: boolean;
  /**
   * "paper" (default): noise drawn anew at every step, rates that rise from 0.30 to 0.34. "reproduce-release" does what the released code
   * does (ltm.md sections 2.2 and 2.6): one draw for the whole loop, rates that fall from 0.34 by a cosine, and, unless `trajectory` says
   * otherwise, gradients of the decoder from every step of the loop. Its losses are the same-noise figure, no bounds.
   */
  preset?: ThoughtPreset;
  /** Of the fast loop, over the preset's. With steps alone the paper's rates and start follow them, see `paced`. */
  inference?: Partial<Inference>;
}

export const thoughtPresets = ["paper", "reproduce-release"] as const;
export type ThoughtPreset = (typeof thoughtPresets)[number];

const common = { logVarianceInit: -5, constantLogVariance: false };
const inferences: Record<ThoughtPreset, Inference> = {
  paper: { steps: 16, learningRate: [0.3, 0.34], schedule: "linear", ...common, noise: "resample" },
  "reproduce-release": { steps: 16, learningRate: [0.34, 0.34], schedule: "cosine", ...common, noise: "shared" },
};

const names = ["latents", "window", "tied", "preset", "inference"];

export function checkThoughtShape(thought: unknown): asserts thought is ThoughtShape {
  if (!isObject(thought)) throw new NoemaError("ERR_INVALID_ARGUMENT", "train: thought: expected an object");
  checkNames(thought, names, "thought");
  const { tied, preset, inference } = thought as ThoughtShape;
  if (tied !== undefined && typeof tied !== "boolean") throw invalid("thought.tied", tied, "true or false");
  if (preset !== undefined) checkWord(preset, thoughtPresets, "thought.preset");
  if (inference !== undefined) checkNames(inference, Object.keys(inferences.paper), "thought.inference");
  const { steps } = inference ?? {};
  if (steps !== undefined) checkNumber(steps, { ...fastLoopRanges.steps, integer: true }, "thought.inference.steps");
  const all = inferenceOf(thought);
  const { learningRate: rate, ...others } = all;
  fitSettings({ ...others, rate }, { inference: all });
}

export function inferenceOf({ preset = "paper", inference = {} }: ThoughtShape): Inference {
  const own = inferences[preset];
  const { steps = own.steps, learningRate, schedule, logVarianceInit } = inference;
  const isFree = [learningRate, schedule, logVarianceInit].every((setting) => setting === undefined);
  return { ...own, ...(preset === "paper" && isFree && paced(own, steps)), ...inference };
}
