/** What every file in commands/ is made of. */

import type { Command } from "commander";
import { describe } from "../json.js";

/** Where a command writes. Results go to `out`; progress and errors go to `error`, so that results can be piped. */
export interface Streams {
  out: NodeJS.WritableStream;
  error: NodeJS.WritableStream;
  /** What commands read that take text from elsewhere. */
  input?: NodeJS.ReadableStream;
}

/** Adds itself to the program: `program.command(name)`, options, an example, an action. */
export type Register = (program: Command, streams: Streams) => void;

/** The last paragraph of a help text. */
export function example(line: string): string {
  return `\nExample:\n  $ ${line}`;
}

/** For JSON.stringify: typed arrays as lists. */
export function listed(_: string, value: unknown): unknown {
  return ArrayBuffer.isView(value) ? Array.from(value as Float64Array) : value;
}

/** Levels of an error's details that are written. */
const DEPTH = 6;

/** What an error's details hold, as JSON can say it: they may be anything that a caller gave or a file had, however deep. */
export function sayable(value: unknown, depth = DEPTH): unknown {
  if (typeof value === "number") return Number.isFinite(value) ? value : String(value);
  if (typeof value === "bigint") return String(value);
  if (typeof value === "symbol" || typeof value === "function") return describe(value);
  if (typeof value !== "object" || value === null) return value;
  if (depth === 0) return describe(value);
  if (Array.isArray(value) || ArrayBuffer.isView(value))
    return Array.from(value as unknown[], (item) => sayable(item, depth - 1));
  return Object.fromEntries(Object.entries(value).map(([name, own]) => [name, sayable(own, depth - 1)]));
}

/** An option's name as a flag: "maxTokens" is "max-tokens". */
export function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
