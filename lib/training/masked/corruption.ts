/**
 * The forward process of masked diffusion: which tokens of a batch are hidden in a step, and what each hidden one weighs.
 * Everything is a pure function of (seed, step, row of the whole batch, position), so it is the same however the batch is
 * cut into micro-batches, and a resumed run hides what the unbroken one would have hidden.
 */

import { NoemaError } from "../../errors.js";
import { Rng, RngStream, type Seed, toUniform } from "../../rng.js";

/**
 * How the times of a batch are drawn. "low-variance": t_b = (u + b) / B with one u per batch, so every batch covers [0, 1]
 * evenly. "independent": t_b ~ U(0, 1) per sequence, as LLaDA does it. Both are mapped to p = (1 - epsilon) t + epsilon.
 */
export type TimeSampling = "low-variance" | "independent";
export const timeSamplings: readonly TimeSampling[] = ["low-variance", "independent"];

/** Keeps the weight 1 / p bounded by a thousand. */
const DEFAULT_EPSILON = 1e-3;

export interface CorruptionOptions {
  seed: Seed;
  maskId: number;
  times?: TimeSampling;
  epsilon?: number;
}

/** A batch of B sequences, or the rows of it that one micro-batch holds. */
export interface CleanRows {
  /** [rows * length] */
  ids: Int32Array;
  length: number;
  /** This micro-batch's first row in the whole batch, and how many rows the whole batch has. */
  firstRow: number;
  totalRows: number;
  /** Per row: where the text begins and ends; outside are pads, which are never hidden. Default: all of it is text. */
  starts?: Int32Array;
  ends?: Int32Array;
  /** Per row: how many positions from `starts` on are prompt. Those are never hidden, and the rest weighs 1 / answer length. */
  promptLengths?: Int32Array;
}

export interface CorruptedRows {
  /** [rows * length] with the mask id where hidden. */
  ids: Int32Array;
  /** [rows * length] the hidden token, -1 where nothing is hidden. */
  targets: Int32Array;
  /** [rows * length] 1 / p / (B T), or 1 / p / (B answer length); 0 where nothing is hidden. */
  weights: Float32Array;
  /** Per row: the probability p that hid each of its tokens. */
  probabilities: Float64Array;
  hidden: number;
}

/** The probability of being hidden for each row of the whole batch, in row order. */
export function maskProbabilities(options: CorruptionOptions, step: number, totalRows: number): Float64Array {
  const epsilon = options.epsilon ?? DEFAULT_EPSILON;
  const rng = new Rng(options.seed);
  const shared = rng.uniform(RngStream.time, step, 0, 0);
  return Float64Array.from({ length: totalRows }, (_, row) => {
    const independent = options.times === "independent";
    const time = independent ? rng.uniform(RngStream.time, step, row, 0) : (shared + row) / totalRows;
    return (1 - epsilon) * time + epsilon;
  });
}

/** Hides tokens of the rows for one training step. */
export function corrupt(rows: CleanRows, step: number, options: CorruptionOptions): CorruptedRows {
  check(rows);
  const count = rows.ids.length / rows.length;
  const all = maskProbabilities(options, step, rows.totalRows);
  const result: CorruptedRows = {
    ids: rows.ids.slice(),
    targets: new Int32Array(rows.ids.length).fill(-1),
    weights: new Float32Array(rows.ids.length),
    probabilities: all.slice(rows.firstRow, rows.firstRow + count),
    hidden: 0,
  };
  const rng = new Rng(options.seed);
  const draws = new Uint32Array(rows.length);
  for (let row = 0; row < count; row++) {
    rng.fill(draws, { stream: RngStream.corruption, step, row: rows.firstRow + row });
    hideRow(rows, row, { draws, maskId: options.maskId }, result);
  }
  return result;
}

/** The positions of a row that may be hidden, [begin, end), and what its loss is divided by besides p. */
function scorable(rows: CleanRows, row: number): { begin: number; end: number; divisor: number } {
  const start = rows.starts?.[row] ?? 0;
  const end = rows.ends?.[row] ?? rows.length;
  const prompt = rows.promptLengths?.[row];
  const begin = Math.min(end, start + (prompt ?? 0));
  const perRow = prompt === undefined ? rows.length : Math.max(1, end - begin);
  return { begin, end, divisor: rows.totalRows * perRow };
}

/** A draw belongs to its position, not to its distance from `begin`: what is hidden does not depend on the prompt's length. */
function hideRow(rows: CleanRows, row: number, by: { draws: Uint32Array; maskId: number }, out: CorruptedRows): void {
  const { begin, end, divisor } = scorable(rows, row);
  const probability = out.probabilities[row]!;
  const weight = 1 / probability / divisor;
  for (let position = begin; position < end; position++) {
    if (toUniform(by.draws[position]!) >= probability) continue;
    const index = row * rows.length + position;
    out.targets[index] = rows.ids[index]!;
    out.ids[index] = by.maskId;
    out.weights[index] = weight;
    out.hidden++;
  }
}

function check(rows: CleanRows): void {
  const count = rows.ids.length / rows.length;
  const bad = (what: string) => {
    throw new NoemaError("ERR_INVALID_ARGUMENT", `corrupt: ${what}`);
  };
  if (!Number.isInteger(count)) bad(`${rows.ids.length} ids are no whole number of rows of ${rows.length}`);
  if (rows.firstRow < 0 || rows.firstRow + count > rows.totalRows)
    bad(`rows ${rows.firstRow}..${rows.firstRow + count} do not lie in a batch of ${rows.totalRows}`);
  for (const name of ["starts", "ends", "promptLengths"] as const) {
    const given = rows[name];
    if (given && given.length !== count) bad(`${name} has ${given.length} entries, expected ${count}`);
    if (given?.some((value) => value < 0 || value > rows.length)) bad(`${name} must lie in 0..${rows.length}`);
  }
}
