// What scripts/compare-thoughts.ts compares: one small thought model at several T_fast and N, and what it would be without thoughts.
import { join } from "node:path";
import type { Inference } from "../lib/checkpoint/config.js";
import type { TrainOptions } from "../lib/index.js";
import type { Places } from "./comparison.js";
import { talesText } from "./tales-run.js";

/** What all models share. */
export interface ModelSetup extends Places {
  /** Tokens that every model is trained on. */
  tokens: number;
  width: number;
  heads: number;
  layers: number;
  /** Keys that a position of a thought model sees. */
  window: number;
  /** T. */
  length: number;
  batch: number;
  rate: number;
  seed: number;
  /** Held-out windows to judge by; 0: all. */
  windows: number;
  /** K, of every window. */
  draws: number;
  /** Tokens that continuations are given. */
  prefix: number;
}

export interface Setup extends ModelSetup {
  /** T_fast of the table's rows. */
  fast: readonly number[];
  /** N of its columns, of all layers together. */
  latents: readonly number[];
}

export interface Cell {
  /** T_fast. */
  steps: number;
  /** N. */
  latents: number;
}

export interface Configuration {
  /** The folder's name. */
  name: string;
  /** None of the baseline. */
  cell?: Cell;
}

/** The baseline first: whatever else is said compares with it. */
export function configurations({ fast, latents }: Pick<Setup, "fast" | "latents">): Configuration[] {
  const cells = latents.flatMap((own) => fast.map((steps): Cell => ({ steps, latents: own })));
  return [{ name: "autoregressive" }, ...cells.map((cell) => ({ name: `t${cell.steps}-n${cell.latents}`, cell }))];
}

/** What the paper's rates take log-variances through, from its start to the prior's 0, and in how many steps (ltm.md section 2.4). */
const TRAVEL = 5;
const STEPS = 16;

/**
 * The fast loop, so that log-variances arrive at the prior's: where they do not, every coordinate pays for it, and what the table showed
 * would be the schedule. They move by about the rate at every step: fewer steps start as much nearer. Many would go past with the
 * paper's rates, so theirs fall, by a cosine, once the fall is long enough for the whole way.
 */
export function loopOf(steps: number): Pick<Inference, "steps" | "schedule" | "learningRate" | "logVarianceInit"> {
  if (steps >= 2 * STEPS) return { steps, schedule: "cosine", learningRate: [0.34, 0.34], logVarianceInit: -TRAVEL };
  return { steps, schedule: "linear", learningRate: [0.3, 0.34], logVarianceInit: (-TRAVEL * steps) / STEPS };
}

export function trainingOf({ name, cell }: Configuration, setup: ModelSetup): TrainOptions {
  const { data, runs, tokens, width, heads, layers, window, length, batch, rate, seed } = setup;
  const steps = Math.max(1, Math.round(tokens / (batch * length)));
  return {
    ...{ run: join(runs, name, "run"), ...talesText(data), cache: join(runs, "cache") },
    shape: { hidden: width, heads, layers },
    ...(cell
      ? {
          ...{
            thought: { preset: "paper", latents: cell.latents, window, tied: false, inference: loopOf(cell.steps) },
          },
          klWarmup: Math.round(steps / 2),
        }
      : { family: "autoregressive" }),
    ...{ steps, batch, length, seed, precision: "bf16" },
    ...{ rate, warmup: Math.ceil(steps / 20), schedule: "cosine", floor: 0.1 },
    ...{ weightDecay: 0.1, clip: 1, beta2: 0.98, ema: 0.999 },
    ...{ evaluateEvery: Math.ceil(steps / 2), evaluateSequences: 16, evaluateDraws: 4 },
    saveEvery: Math.ceil(steps / 8),
  };
}
