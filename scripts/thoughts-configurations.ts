// What scripts/compare-thoughts.ts compares: one small thought model at several T_fast and N, and what it would be without thoughts.
import { join } from "node:path";
import type { TrainOptions } from "../lib/index.js";
import { type Pace, paced } from "../lib/posterior/fit.js";
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

/** The paper's: its rates take log-variances from its start to the prior's in as many steps. */
const PAPER: Pace = { steps: 16, learningRate: [0.3, 0.34], schedule: "linear", logVarianceInit: -5 };

/** The fast loop in so many steps. */
export const loopOf = (steps: number): Pace => paced(PAPER, steps);

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
