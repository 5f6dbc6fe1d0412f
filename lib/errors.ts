/** The one error class and its codes: the same list as `native/include/noema/status.def`, which a test compares with this one. */

import { closest, distance } from "fastest-levenshtein";

/** Every code and what it means. */
export const errorMeanings = {
  ERR_INVALID_ARGUMENT: "an argument has the wrong type, shape or value",
  ERR_UNKNOWN_OPTION: "an option with this name does not exist",
  ERR_UNSUPPORTED: "the backend, layout or build does not offer this",
  ERR_OUT_OF_MEMORY: "host or device memory could not be had",
  ERR_BAD_CHECKPOINT: "a checkpoint's files are malformed or contradict each other",
  ERR_BAD_TOKENIZER: "tokenizer.json is malformed or does not fit the model",
  ERR_BAD_CORPUS: "a text file is empty, binary or too short",
  ERR_BAD_STATE: "a training state does not fit the run that wants to resume from it",
  ERR_PROMPT_TOO_LONG: "prompt and new tokens exceed the model's positions",
  ERR_NON_FINITE: "a weight, state, loss or gradient is NaN, infinite or out of range",
  ERR_NOT_CONVERGED: "a search or an iteration did not reach its tolerance",
  ERR_ABORTED: "the caller's signal ended the work",
  ERR_DISPOSED: "the handle, or what it depends on, was disposed",
  ERR_QUEUE_FULL: "the engine has as many waiting requests as it accepts",
  ERR_IO: "reading or writing a file failed",
  ERR_ADDON_MISSING: "the native addon could not be found or opened",
  ERR_DEVICE_UNAVAILABLE: "the requested device is absent or unusable",
  ERR_VERIFICATION_FAILED: "computed values differ from the expected ones",
  ERR_INTERNAL: "a defect in noema",
} as const;

export type ErrorCode = keyof typeof errorMeanings;

/** Everything noema throws or rejects with, from TypeScript and from native code alike. */
export class NoemaError extends Error {
  readonly code: ErrorCode;
  /** What a program may want to read without parsing the message. */
  readonly details: Readonly<Record<string, unknown>>;

  constructor(
    code: ErrorCode,
    message: string,
    details: Readonly<Record<string, unknown>> = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.code = code;
    this.details = details;
  }
}
Object.defineProperty(NoemaError.prototype, "name", { value: "NoemaError", configurable: true, writable: true });

/** The allowed spelling nearest to what was written, if it is near enough to have been meant. */
export function nearest(name: string, allowed: readonly string[]): string | undefined {
  if (name === "" || allowed.length === 0) return undefined;
  const prefixed = allowed.filter((candidate) => candidate.startsWith(name));
  if (prefixed.length === 1) return prefixed[0];
  const best = closest(name.toLowerCase(), [...allowed]);
  return distance(name.toLowerCase(), best.toLowerCase()) <= Math.max(2, Math.floor(name.length / 3))
    ? best
    : undefined;
}

/** The error for an option, value or name that does not exist; it names the spelling that was probably meant. */
export function unknownOption(name: string, allowed: readonly string[], what = "option"): NoemaError {
  const suggestion = nearest(name, allowed);
  const hint = suggestion ? `did you mean "${suggestion}"?` : `known: ${allowed.join(", ") || "none"}`;
  return new NoemaError("ERR_UNKNOWN_OPTION", `unknown ${what} "${name}"; ${hint}`, { name, allowed, suggestion });
}
