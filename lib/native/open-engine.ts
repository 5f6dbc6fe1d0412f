/** The one place where native engines are made, so that NOEMA_ISA is honoured whoever asks. */

import type { Addon, EngineOptions, NativeEngine } from "./addon.js";

/** Throws what `forceIsa` and `createEngine` throw: an instruction set that is unknown or absent, options out of range. */
export function openEngine(addon: Addon, options: EngineOptions): NativeEngine {
  const isa = process.env["NOEMA_ISA"];
  if (isa) addon.forceIsa(isa);
  return addon.createEngine(options);
}
