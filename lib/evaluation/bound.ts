/**
 * The masked-diffusion bound on -log p(x), estimated from several corruptions of every window. Both forms are upper bounds in
 * expectation:
 *
 * - "stratified": p = (1 - epsilon) t + epsilon with one t from each of K equal strata of [0, 1]; every token is hidden with
 *   probability p; the estimate is sum of losses / p. Leaving out times below epsilon, where losses are lowest, keeps it an
 *   upper bound.
 * - "fixed-count": l of the T positions, uniformly without replacement, l from K equal strata of 1..T; the estimate is
 *   T / l times the sum. In expectation this is the mean over all orders of the chain rule. Its variance is lower, for the
 *   weight belongs to the number really hidden; short texts gain most.
 *
 * Draws are a function of (seed, window, draw, position): the estimate does not depend on how windows are batched.
 */

import { checkSignal, checkWord } from "../decoding/options.js";
import { NoemaError } from "../errors.js";
import { describe } from "../json.js";
import type { LossRequest } from "../native/addon.js";
import type { FitOptions } from "../posterior/fit.js";
import { Rng, RngStream, type Seed, toUniform } from "../rng.js";

export type BoundForm = "stratified" | "fixed-count";
export const boundForms: readonly BoundForm[] = ["stratified", "fixed-count"];

/** What a family's estimates are: masked models have two forms to choose from, the others one. */
export type EstimateForm = BoundForm | OwnForm | "chain-rule";
/** Of flows, and of thought models: fitted thoughts, drawn from afresh. */
export type OwnForm = "telescoped" | "fresh-noise";

/** What they say of the negative log-likelihood: it is at most this, or exactly this. */
export type EstimateKind = "upper" | "exact";

/** What estimating needs of a model: a native model's losses, or a trainer's. */
export interface Scorer {
  /** A loaded model's end with the signal, a trainer's go on to their end. */
  losses(request: LossRequest, signal?: AbortSignal): Promise<Float32Array>;
  maskId: number;
}

/** A stretch of text that one forward pass can hold. Its first `context` tokens are given: never hidden, never scored. */
export interface Window {
  /** Counts the windows of a corpus or text: the key of their draws. */
  index: number;
  ids: Int32Array;
  context?: number;
}

export interface BoundOptions {
  /** Of masked models. */
  form?: BoundForm;
  /** Corruptions, or draws of latents, per window. */
  draws?: number;
  seed?: Seed;
  /** Of thought models: how every window's thought is fitted. */
  think?: FitOptions;
  /** Upper limit on the positions of one native call: it bounds memory. */
  callTokens?: number;
  signal?: AbortSignal | undefined;
}

/** What a family's own estimates take besides. */
export interface EstimateOptions extends BoundOptions {
  /**
   * Of thought models: also fit every window by one draw for all steps, and score it by that very draw, as the figures published for
   * latent thought models are. It is no bound, and has a name of its own: `sameNoiseNelbo`.
   */
  sameNoise?: boolean;
}

/** What a thought model's bound on a window is made of, in nats. */
export interface ThoughtTerms {
  /** Mean over the fresh draws. */
  crossEntropy: number;
  /** Of the posterior from the prior. 0 where a context was fitted: the rest does not pay for it. */
  kl: number;
  /** That the fast loop took. */
  steps: number;
  /** Cross-entropy and KL divergence of a fit by one draw, scored by that very draw: no bound (ltm.md section 3.3). */
  sameNoise?: number;
}

/** One window's estimate. */
export interface WindowBound {
  index: number;
  tokens: number;
  /** Mean over the draws. */
  nats: number;
  /** Squared standard error of `nats` over the draws, not counting the gain of strata: rather too large than too small. 0 for one draw. */
  variance: number;
  /** -log of the mean likelihood weight of the draws, where the family has such weights: a bound too, at most `nats`. */
  importanceWeighted?: number;
  /** Of thought models. */
  thought?: ThoughtTerms;
}

export const boundDefaults = { form: "fixed-count", draws: 16, seed: 0, callTokens: 4096 } as const;
const EPSILON = 1e-3;
/** Of draws, and of the positions of a call: what is made for them stays in memory. */
const MOST = 1 << 20;

/** A window under one corruption. */
interface Row {
  ids: Int32Array;
  targets: Int32Array;
  weight: number;
  window: Window;
}

export const boundNames = ["form", "draws", "seed", "think", "callTokens", "signal"] as const;

export function checkBound(options: BoundOptions) {
  const settings = { ...boundDefaults, ...options };
  checkSignal(settings.signal);
  checkWord(settings.form, boundForms, "form");
  for (const name of ["draws", "callTokens"] as const) {
    if (Number.isInteger(settings[name]) && settings[name] >= 1 && settings[name] <= MOST) continue;
    const message = `${name} is ${describe(settings[name])}, expected an integer 1 .. ${MOST}`;
    throw new NoemaError("ERR_INVALID_ARGUMENT", message, { option: name, value: settings[name] });
  }
  return settings;
}

/** Yields one estimate per window, in order. Windows may have different lengths. */
export async function* windowBounds(
  scorer: Scorer,
  windows: Iterable<Window> | AsyncIterable<Window>,
  options: BoundOptions = {},
): AsyncGenerator<WindowBound> {
  const settings = checkBound(options);
  const waiting: Row[] = [];
  const done: number[] = [];
  const flush = async function* (final: boolean): AsyncGenerator<WindowBound> {
    while (waiting.length > 0 && (final || rowsOfCall(waiting, settings.callTokens) < waiting.length)) {
      settings.signal?.throwIfAborted();
      const rows = waiting.splice(0, rowsOfCall(waiting, settings.callTokens));
      for (const [i, loss] of (await rowLosses(scorer, rows, settings.signal)).entries()) {
        done.push(loss);
        if (done.length === settings.draws) yield summarise(rows[i]!.window, done.splice(0));
      }
    }
  };
  for await (const window of windows) {
    for (let draw = 0; draw < settings.draws; draw++) {
      waiting.push(corruptWindow(window, draw, scorer.maskId, settings));
      yield* flush(false);
    }
  }
  yield* flush(true);
}

/** How many of the first rows fit one call; all of them are as long as the longest. */
function rowsOfCall(rows: readonly Row[], limit: number): number {
  let longest = 0;
  for (const [i, row] of rows.entries()) {
    longest = Math.max(longest, row.ids.length);
    if (i > 0 && longest * (i + 1) > limit) return i;
  }
  return rows.length;
}

async function rowLosses(scorer: Scorer, rows: readonly Row[], signal: AbortSignal | undefined): Promise<number[]> {
  const length = rows.reduce((longest, row) => Math.max(longest, row.ids.length), 0);
  const ids = new Int32Array(rows.length * length).fill(scorer.maskId);
  const targets = new Int32Array(rows.length * length).fill(-1);
  for (const [i, row] of rows.entries()) {
    ids.set(row.ids, i * length);
    targets.set(row.targets, i * length);
  }
  const padded = rows.some((row) => row.ids.length < length);
  const ends = { keyStart: new Int32Array(rows.length), keyEnd: Int32Array.from(rows, (row) => row.ids.length) };
  const shape = { batch: rows.length, length, ...(padded ? ends : {}) };
  const losses = await scorer.losses({ ids, targets, excludedId: scorer.maskId, ...shape }, signal);
  return rows.map((row, i) => row.weight * sum(losses.subarray(i * length, (i + 1) * length)));
}

function corruptWindow(
  window: Window,
  draw: number,
  maskId: number,
  settings: { form: BoundForm; draws: number; seed: Seed },
): Row {
  const rng = new Rng(settings.seed);
  const stratum = (rng.uniform(RngStream.time, window.index, 0, 0) + draw) / settings.draws;
  const uniforms = new Uint32Array(window.ids.length);
  rng.fill(uniforms, { stream: RngStream.corruption, step: window.index, row: draw });
  const row: Row = { ids: window.ids.slice(), targets: new Int32Array(window.ids.length).fill(-1), weight: 0, window };
  const hide = (position: number) => {
    row.targets[position] = window.ids[position]!;
    row.ids[position] = maskId;
  };
  if (settings.form === "stratified") row.weight = hideIndependently(window, stratum, uniforms, hide);
  else row.weight = hideCounted(window, stratum, uniforms, hide);
  return row;
}

type Hide = (position: number) => void;

function hideIndependently(window: Window, time: number, uniforms: Uint32Array, hide: Hide): number {
  const probability = (1 - EPSILON) * time + EPSILON;
  for (let i = window.context ?? 0; i < uniforms.length; i++) if (toUniform(uniforms[i]!) < probability) hide(i);
  return 1 / probability;
}

/** The first l places of a shuffle of the scored positions. */
function hideCounted(window: Window, stratum: number, uniforms: Uint32Array, hide: Hide): number {
  const context = window.context ?? 0;
  const positions = Int32Array.from({ length: window.ids.length - context }, (_, i) => context + i);
  const count = Math.min(positions.length, 1 + Math.floor(stratum * positions.length));
  for (let i = 0; i < count; i++) {
    const j = i + Math.floor(toUniform(uniforms[i]!) * (positions.length - i));
    [positions[i], positions[j]] = [positions[j]!, positions[i]!];
    hide(positions[i]!);
  }
  return positions.length / count;
}

/** The mean of a window's estimates, and how far it may be off. */
export function summarise(window: Window, estimates: readonly number[]): WindowBound {
  const nats = sum(estimates) / estimates.length;
  const spread = estimates.reduce((total, value) => total + (value - nats) ** 2, 0);
  const variance = estimates.length > 1 ? spread / (estimates.length - 1) / estimates.length : 0;
  return { index: window.index, tokens: window.ids.length - (window.context ?? 0), nats, variance };
}

export function sum(values: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i]!;
  return total;
}
