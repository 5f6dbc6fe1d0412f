/** Which backend an engine runs on: what was asked for, checked, and what "auto" comes to. */

import { existsSync } from "node:fs";
import { checkNames, checkWord, invalid } from "./decoding/options.js";
import { NoemaError, unknownOption } from "./errors.js";
import type { BackendName } from "./native/addon.js";
import { moduleOf } from "./native/device-module.js";
import { probe } from "./native/probe.js";

export type DeviceOption = "auto" | "cpu" | "cuda" | { cuda: number };

const devices = ["auto", "cpu", "cuda"] as const;
const backends = ["cpu", "reference", "naive", "cuda", "cuda-emulated"] as const;
/** Most GPUs that a backend's name can tell apart. */
const mostDevices = 64;

/** A device as the start of the names of its backends. */
type Device = (typeof devices)[number] | `cuda:${number}`;

/** The backend for the options `device` and `backend`. The latter must suit the former; NOEMA_BACKEND yields if it does not. */
export function backendFor(device: unknown, backend: unknown): BackendName | "auto" {
  const wanted = checkDevice(device);
  const preset = process.env["NOEMA_BACKEND"];
  if (backend === undefined) {
    const named = preset ? checkBackend(preset) : undefined;
    return named !== undefined && suits(named, wanted) ? named : wanted;
  }
  const named = checkBackend(backend);
  if (suits(named, wanted)) return named;
  const message = `backend "${named}" does not run on device "${wanted}"; give one of the two`;
  throw new NoemaError("ERR_INVALID_ARGUMENT", message, { device, backend });
}

function suits(backend: BackendName, device: Device): boolean {
  if (device === "auto") return true;
  if (device === "cpu") return moduleOf(backend) === undefined;
  if (device === "cuda") return moduleOf(backend) !== undefined;
  return backend === device || (backend === "cuda" && device === "cuda:0");
}

function checkBackend(name: unknown): BackendName {
  const index = typeof name === "string" ? /^cuda:(\d+)$/.exec(name)?.[1] : undefined;
  return index === undefined ? checkWord(name, backends, "backend") : `cuda:${checkIndex(Number(index))}`;
}

function checkDevice(device: unknown): Device {
  if (device === undefined) return "auto";
  if (devices.includes(device as (typeof devices)[number])) return device as Device;
  if (typeof device === "string") throw unknownOption(device, devices, "device");
  if (typeof device !== "object" || device === null) {
    throw invalid("device", device, '"auto", "cpu", "cuda" or { cuda: index }');
  }
  checkNames(device, ["cuda"], "device");
  return `cuda:${checkIndex((device as { cuda?: unknown }).cuda)}`;
}

function checkIndex(index: unknown): number {
  if (Number.isInteger(index) && (index as number) >= 0 && (index as number) < mostDevices) return index as number;
  throw invalid("cuda", index, `a GPU's index, from 0 to ${mostDevices - 1}`);
}

// --- "auto" ----------------------------------------------------------------------------------------------------------

/** Until the CUDA kernels have run on a GPU, "auto" leaves it alone. */
export const autoTakesCuda: boolean = false;

export const whyNotCuda = 'its CUDA kernels have not yet run on a GPU; device "cuda" asks for them';

export interface Automatic {
  backend: BackendName;
  /** Why a GPU that is present is not used. */
  fallbackReason?: string;
}

/** The best backend here. Where no driver has left its device file, nothing is looked at further. */
export async function automaticBackend(
  addonPath: string,
  { takesCuda = autoTakesCuda, hasGpu = gpuIsPresent() } = {},
): Promise<Automatic> {
  if (!hasGpu) return { backend: "cpu" };
  if (!takesCuda)
    return { backend: "cpu", fallbackReason: `a GPU is present, but noema leaves it alone: ${whyNotCuda}` };
  const { usable, reason } = await probe({ backend: "cuda", addonPath });
  return usable ? { backend: "cuda" } : { backend: "cpu", fallbackReason: `a GPU is present, but ${reason}` };
}

/** The NVIDIA driver's device file, or that of Windows' GPUs in its Linux. */
function gpuIsPresent(): boolean {
  return existsSync("/dev/nvidiactl") || existsSync("/dev/dxg");
}
