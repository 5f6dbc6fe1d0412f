/**
 * Options as data: a rule describes its options once, and from that come their checks, their defaults, the nearest right
 * spelling for a wrong name, and the command line's switches.
 */

import { NoemaError, unknownOption } from "../errors.js";
import { describe } from "../json.js";

interface Described {
  /** One line for help texts. */
  what: string;
}
export interface NumberSpec extends Described {
  kind: "number";
  default?: number;
  integer?: boolean;
  min: number;
  max?: number;
  /** `min` itself is not allowed. */
  above?: boolean;
}
export interface ChoiceSpec extends Described {
  kind: "choice";
  default: string;
  choices: readonly string[];
}
export interface FlagSpec extends Described {
  kind: "flag";
  default: boolean;
}
export type OptionSpec = NumberSpec | ChoiceSpec | FlagSpec;
export type OptionSpecs = Readonly<Record<string, OptionSpec>>;
export type OptionValue = number | string | boolean;

/** Of steps: far more than a text has use for, and few enough to be laid out before the first. */
const MOST_STEPS = 1 << 16;

/** Options that every rule knows. A rule may have other defaults (`PolicyDefinition.defaults`). */
export const sharedOptions = {
  steps: {
    kind: "number",
    integer: true,
    min: 1,
    max: MOST_STEPS,
    what: "forward passes; without it, one per tokensPerStep tokens",
  },
  schedule: {
    kind: "choice",
    choices: ["even", "time"],
    default: "even",
    what: "even: every step makes as many tokens; time: the share of what is masked that time has gone on by (Dream)",
  },
  tokensPerStep: { kind: "number", integer: true, min: 1, what: "tokens made per forward pass (instead of steps); 1" },
  temperature: { kind: "number", min: 0, max: 100, what: "0: the likeliest token; 1: the model's own distribution" },
  topK: { kind: "number", integer: true, min: 0, default: 0, what: "draw from the K likeliest tokens; 0: all" },
  topP: {
    kind: "number",
    min: 0,
    above: true,
    max: 1,
    default: 1,
    what: "draw from the likeliest tokens of this mass",
  },
  blockLength: { kind: "number", integer: true, min: 1, what: "finish blocks of so many positions from left to right" },
  guidance: { kind: "number", min: 0, max: 100, default: 0, what: "classifier-free guidance scale; 0: none" },
  stopAtEos: { kind: "flag", default: true, what: "cut the text at the first end-of-text token" },
} as const satisfies OptionSpecs;

export type Schedule = (typeof sharedOptions)["schedule"]["choices"][number];

/** Fills in defaults and refuses what does not exist or does not fit. `where` names the options in messages. */
export function parseOptions(
  given: Readonly<Record<string, unknown>>,
  specs: OptionSpecs,
  where: string,
): Record<string, OptionValue | undefined> {
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(specs, name)) throw unknownOption(name, Object.keys(specs), `${where} option`);
  }
  const parsed: Record<string, OptionValue | undefined> = {};
  for (const [name, spec] of Object.entries(specs)) {
    const value = given[name];
    parsed[name] = value === undefined ? spec.default : checkOption(value, spec, `${where}.${name}`);
  }
  return parsed;
}

function checkOption(value: unknown, spec: OptionSpec, name: string): OptionValue {
  if (spec.kind === "number") return checkNumber(value, spec, name);
  if (spec.kind === "flag") {
    if (typeof value === "boolean") return value;
    throw invalid(name, value, "true or false");
  }
  return checkWord(value, spec.choices, name);
}

/** Refuses what is none of these words; a word that is near one of them is answered with it. */
export function checkWord<W extends string>(value: unknown, words: readonly W[], name: string): W {
  if (words.includes(value as W)) return value as W;
  if (typeof value === "string") throw unknownOption(value, words, name);
  throw invalid(name, value, `one of ${words.join(", ")}`);
}

/** Checks a number against its description; also used for options outside of decoding rules. */
export function checkNumber(value: unknown, spec: Omit<NumberSpec, "kind" | "what">, name: string): number {
  const { min, max = Number.POSITIVE_INFINITY, above = false, integer = false } = spec;
  const fits = typeof value === "number" && Number.isFinite(value) && (above ? value > min : value >= min);
  if (fits && value <= max && (!integer || Number.isSafeInteger(value))) return value;
  const range = `${above ? "above" : "from"} ${min}${max < Number.POSITIVE_INFINITY ? ` to ${max}` : ""}`;
  throw invalid(name, value, `${integer ? "an integer" : "a number"} ${range}`);
}

/** Refuses what is no options object, and names that do not exist. */
export function checkNames(options: unknown, allowed: readonly string[], what: string): void {
  if (typeof options !== "object" || options === null) throw invalid(`${what} options`, options, "an object");
  for (const name of Object.keys(options)) {
    if (!allowed.includes(name)) throw unknownOption(name, allowed, `${what} option`);
  }
}

export function isList(value: unknown): value is ArrayLike<number> {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
}

export function checkFunction(value: unknown, name: string): void {
  if (value !== undefined && typeof value !== "function") throw invalid(name, value, "a function");
}

export function checkSignal(signal: unknown): void {
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw invalid("signal", signal, "an AbortSignal");
}

export function invalid(name: string, value: unknown, expected: string): NoemaError {
  const given = value === undefined ? "undefined" : describe(value);
  return new NoemaError("ERR_INVALID_ARGUMENT", `${name}: expected ${expected}, got ${given}`, {
    name,
    value,
    expected,
  });
}
