/** How far computed values may be from expected ones, as expected.json words it. */

import { isObject, type JsonObject } from "../json.js";
import type { GoldenArray } from "./golden.js";

/** One inequality on the errors; all of an array's must hold. */
interface Clause {
  /** "l2": the norm of all errors against the norm of the values. "each": every error against its own value. */
  readonly over: "each" | "l2";
  readonly relative: number;
  readonly absolute: number;
  /** Factor on the array's largest value. */
  readonly ofMax: number;
  /** Factor on the array's root mean square. */
  readonly ofRms: number;
}

export interface Tolerance {
  readonly text: string;
  readonly clauses: readonly Clause[];
}

export interface Difference {
  /** Largest absolute error. */
  maxError: number;
  /** Error over what is allowed: at most 1 passes. */
  ratio: number;
}

const exact: Tolerance = { text: "equal", clauses: [clause({})] };

function clause(part: Partial<Clause>): Clause {
  return { over: "each", relative: 0, absolute: 0, ofMax: 0, ofRms: 0, ...part };
}

/** Where expected.json gives none: the rules of the golden cases' README. */
function fallback(name: string): Tolerance {
  if (name.startsWith("grad.")) return parseTolerance("rel L2 per tensor 2e-5")!;
  if (/(^|[._])(loss|nll|nelbo|bound)$/.test(name)) return parseTolerance("rel 1e-5")!;
  return { text: "abs 1e-4 of the rms", clauses: [clause({ ofRms: 1e-4 })] };
}

/** The tolerance that a folder gives an array. Integers must be equal. */
export function toleranceOf({ name, values }: GoldenArray, description: Readonly<JsonObject>): Tolerance {
  if (values instanceof Int32Array || values instanceof Uint8Array) return exact;
  const text = tolerances(name, values, description).find((candidate) => typeof candidate === "string");
  return (text === undefined ? undefined : parseTolerance(text)) ?? fallback(name);
}

function tolerances(
  name: string,
  values: GoldenArray["values"],
  description: Readonly<JsonObject>,
): (string | undefined)[] {
  const { tolerance_f32, tolerance_f64, tolerance, arrays } = description;
  const entry = isObject(arrays) ? arrays[name] : undefined;
  const own = isObject(entry) && typeof entry["tolerance"] === "string" ? entry["tolerance"] : undefined;
  const given = values instanceof Float64Array ? [tolerance_f64, tolerance_f32] : [tolerance_f32, tolerance_f64];
  return [own, ...[...given, tolerance].map((source) => lookUp(name, source))];
}

/** A string counts for all arrays; in an object, the longest pattern that fits the name or its last parts. */
function lookUp(name: string, source: unknown): string | undefined {
  if (typeof source === "string") return source;
  if (!isObject(source)) return undefined;
  const fitting = Object.keys(source).filter((pattern) => fits(name, pattern));
  const best = fitting.sort((a, b) => b.length - a.length)[0];
  const found = best === undefined ? undefined : source[best];
  return typeof found === "string" ? found : undefined;
}

function fits(name: string, pattern: string): boolean {
  const escaped = pattern.replace(/[.+?^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*");
  return new RegExp(`(^|\\.)${escaped}$`).test(name);
}

/** Reads "abs 1e-4", "rel 1e-5 + abs 1e-5", "rel L2 per tensor 2e-5, abs 2e-5*max|grad| + 1e-7"; undefined otherwise. */
export function parseTolerance(text: string): Tolerance | undefined {
  const clauses = text
    .replace(/\(.*?\)/g, "")
    .replace(/ at [a-z ]+/g, "")
    .split(/[,;]/)
    .map((part) => parseClause(part.trim()))
    .filter((part) => part !== undefined);
  return clauses.length > 0 ? { text, clauses } : undefined;
}

const term =
  /^(floats )?(rel L2 per tensor |rel |abs )?([\d.]+(?:e[-+]?\d+)?)(\s*\*\s*max\|\w*\||\s*(?:of|times) the (?:array's )?rms)?$/;

function parseClause(text: string): Clause | undefined {
  const sum = { over: "each" as Clause["over"], relative: 0, absolute: 0, ofMax: 0, ofRms: 0 };
  for (const part of text.split(/\s\+\s/)) {
    const match = term.exec(part.trim());
    if (!match) return undefined;
    const [, , kind = "abs ", digits, scale = ""] = match;
    const value = Number(digits);
    if (scale.includes("max")) sum.ofMax += value;
    else if (scale.includes("rms")) sum.ofRms += value;
    else if (kind === "abs ") sum.absolute += value;
    else sum.relative += value;
    if (kind.includes("L2")) sum.over = "l2";
  }
  return sum;
}

/** Compares; positions where `skip` is 1 do not count. NaN differs from everything but NaN. */
export function compare(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  { clauses }: Tolerance,
  skip?: ArrayLike<number>,
): Difference {
  if (actual.length !== expected.length) return { maxError: Number.POSITIVE_INFINITY, ratio: Number.POSITIVE_INFINITY };
  const scale = scaleOf(expected);
  let maxError = 0;
  let ratio = 0;
  let squares = 0;
  for (let i = 0; i < expected.length; i++) {
    if (skip?.[i] || Object.is(actual[i], expected[i])) continue;
    const error = Math.abs(actual[i]! - expected[i]!);
    maxError = worse(maxError, error);
    squares += error * error;
    for (const one of clauses)
      if (one.over === "each") ratio = worse(ratio, over(error, allowed(one, expected[i]!, scale)));
  }
  for (const one of clauses)
    if (one.over === "l2") ratio = worse(ratio, over(Math.sqrt(squares), allowed(one, scale.norm, scale)));
  return { maxError, ratio };
}

interface Scale {
  norm: number;
  max: number;
  rms: number;
}

function scaleOf(values: ArrayLike<number>): Scale {
  let squares = 0;
  let max = 0;
  for (let i = 0; i < values.length; i++) {
    squares += values[i]! * values[i]!;
    max = Math.max(max, Math.abs(values[i]!));
  }
  return { norm: Math.sqrt(squares), max, rms: Math.sqrt(squares / Math.max(1, values.length)) };
}

function allowed({ relative, absolute, ofMax, ofRms }: Clause, value: number, { max, rms }: Scale): number {
  return relative * Math.abs(value) + absolute + ofMax * max + ofRms * rms;
}

function over(error: number, limit: number): number {
  return error === 0 ? 0 : error / limit;
}

/** The larger of two errors, where NaN is the largest of all. */
function worse(a: number, b: number): number {
  return Number.isNaN(b) ? Number.POSITIVE_INFINITY : Math.max(a, b);
}
