/** The one place where native engines are made: NOEMA_ISA is honoured and devices are probed first, whoever asks. */

import { NoemaError } from "../errors.js";
import type { Addon, EngineOptions, NativeEngine } from "./addon.js";
import { moduleOf } from "./device-module.js";
import { probe } from "./probe.js";

/** An addon that is open, and its file: children that probe open the same. Without a path nothing is probed. */
export interface OpenAddon {
  addon: Addon;
  path?: string;
}

export interface OpenEngine {
  native: NativeEngine;
  /** One line about the device; absent for the processor. */
  description?: string;
}

/**
 * Resolves when the engine can work. Rejects with what `forceIsa` and `createEngine` throw (an instruction set that is unknown or
 * absent, options out of range), and with ERR_DEVICE_UNAVAILABLE and the reason.
 */
export async function openEngine({ addon, path }: OpenAddon, options: EngineOptions): Promise<OpenEngine> {
  const isa = process.env["NOEMA_ISA"];
  if (isa) addon.forceIsa(isa);
  const description = path === undefined ? undefined : await describe(options.backend, path);
  const native = addon.createEngine(options);
  try {
    await native.ready();
  } catch (error) {
    native.dispose();
    throw error;
  }
  return { native, ...(description === undefined ? {} : { description }) };
}

async function describe(backend: string, addonPath: string): Promise<string | undefined> {
  if (moduleOf(backend) === undefined) return undefined;
  const { usable, description, reason } = await probe({ backend, addonPath });
  if (usable) return description;
  throw new NoemaError("ERR_DEVICE_UNAVAILABLE", `${backend} cannot be used: ${reason}`, { backend, reason });
}
