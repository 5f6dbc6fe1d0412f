/** The flag that says what engines run on. */

import type { Command } from "commander";
import type { DeviceInfo, DeviceOption } from "../engine.js";

export interface DeviceFlag {
  device?: string;
}

export function addDeviceFlag(command: Command): Command {
  return command.option("--device <name>", "auto, cpu, cuda or, where there are several GPUs, cuda:N (default: auto)");
}

/** What was given, as `createEngine` takes it, which refuses what it does not know. */
export function deviceOption({ device }: DeviceFlag): { device?: DeviceOption } {
  if (device === undefined) return {};
  const index = /^cuda:(\d+)$/.exec(device)?.[1];
  return { device: index === undefined ? (device as DeviceOption) : { cuda: Number(index) } };
}

/** For instance "cpu (avx2), 4 threads" or "cuda (NVIDIA H200, ...)". */
export function describeDevice({ backend, description, isa, threads }: DeviceInfo): string {
  if (description !== undefined) return `${backend} (${description})`;
  return `${backend} (${isa}), ${threads} ${threads === 1 ? "thread" : "threads"}`;
}
