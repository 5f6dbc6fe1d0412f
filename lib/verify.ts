/** Verifying a golden folder with the options that engines take. */

import { checkFunction, checkNames, invalid } from "./decoding/options.js";
import { checkEngine } from "./engine.js";
import type { BackendName } from "./native/addon.js";
import { type ArrayReport, type VerificationReport, verify as verifyFolder } from "./verification/verify.js";

export interface VerifyOptions {
  /** Default: NOEMA_BACKEND, or "cpu". */
  backend?: BackendName;
  threads?: number;
  /** Called as soon as something is known of an array. */
  onArray?: (report: ArrayReport) => void;
}

/** Recomputes every array of a golden folder that this version knows, and compares. */
export async function verify(folder: string, options: VerifyOptions = {}): Promise<VerificationReport> {
  if (typeof folder !== "string") throw invalid("folder", folder, "the path of a golden folder");
  checkNames(options, ["backend", "threads", "onArray"], "verify");
  checkFunction(options.onArray, "onArray");
  const { onArray, ...others } = options;
  const { backend, threads } = checkEngine(others);
  return verifyFolder(folder, {
    backend: backend === "auto" ? "cpu" : backend,
    threads,
    ...(onArray ? { onArray } : {}),
  });
}

export { type ArrayReport, assertPassed, type VerificationReport } from "./verification/verify.js";
