/** The modules that bring the backends of devices: which there are, and where the addon looks for them (device_module.cpp). */

import { accessSync, constants, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { buildCommand } from "./load.js";

/** The module that a backend lives in: "cuda:1" in "cuda". Undefined for those that every addon has. */
export function moduleOf(backend: string): string | undefined {
  return /^(cuda|cuda-emulated)(:\d+)?$/.exec(backend)?.[1];
}

export interface ModuleFile {
  path: string;
  /** Why there is no such file, and how to get it; absent when it is there. */
  reason?: string;
}

/** The file that an addon would open: the one that NOEMA_CUDA_MODULE names (for "cuda"), else the one beside the addon. */
export function moduleFile(module: string, addonPath: string): ModuleFile {
  const variable = `NOEMA_${module.toUpperCase().replaceAll("-", "_")}_MODULE`;
  const given = process.env[variable];
  if (given)
    return isReadable(given) ? { path: given } : { path: given, reason: `${variable} names no file: ${given}` };
  const path = join(dirname(realpathSync(addonPath)), `noema-${module}.so`);
  return isReadable(path) ? { path } : { path, reason: absent(module, path) };
}

function absent(module: string, path: string): string {
  if (module !== "cuda") return `this build has no ${module} module (${path})`;
  const remedy = `where nvcc of CUDA 12 or newer is found, this makes it: ${buildCommand()}`;
  return `this build has no CUDA module (${path}); ${remedy}`;
}

function isReadable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}
