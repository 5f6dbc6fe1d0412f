/** What every file in commands/ is made of. */

import type { Command } from "commander";

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

/** An option's name as a flag: "maxTokens" is "max-tokens". */
export function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
