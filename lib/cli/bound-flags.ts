/** The flags that `score` and `evaluate` share. */

import type { Command } from "commander";
import { NoemaError } from "../errors.js";
import {
  type BoundForm,
  type BoundOptions,
  boundDefaults,
  boundForms,
  type EstimateForm,
  type EstimateKind,
} from "../evaluation/bound.js";
import type { Precision } from "../native/addon.js";
import { addDeviceFlag, type DeviceFlag } from "./device-flag.js";

export interface BoundFlags extends DeviceFlag {
  form?: string;
  draws?: string;
  seed?: string;
  think?: string;
  length?: string;
  precision?: string;
  json?: boolean;
}

export function addBoundFlags(command: Command): Command {
  return addDeviceFlag(command)
    .option("--draws <number>", `corruptions, or draws of latents, of every window (default: ${boundDefaults.draws})`)
    .option("--form <name>", `masked models: ${boundForms.join(" or ")} (default: ${boundDefaults.form})`)
    .option("--seed <number>", `of what is drawn (default: ${boundDefaults.seed})`)
    .option("--think <steps>", "thought models: steps of the fast loop (default: the checkpoint's)")
    .option("--length <number>", "tokens per window (default: the model's positions)")
    .option("--precision <name>", "f32 or bf16: how weights are held")
    .option("--json", "print JSON");
}

export function boundOptions({ form, draws, seed, think, length }: BoundFlags): BoundOptions & { length?: number } {
  return {
    ...(form !== undefined && { form: form as BoundForm }),
    ...(draws !== undefined && { draws: numberOf(draws, "draws") }),
    ...(seed !== undefined && { seed: seedOf(seed) }),
    ...(think !== undefined && { think: { steps: numberOf(think, "think") } }),
    ...(length !== undefined && { length: numberOf(length, "length") }),
  };
}

export function loadOptions({ precision }: BoundFlags): { precision?: Precision } {
  return precision === undefined ? {} : { precision: precision as Precision };
}

/** What stands before a figure. */
export function atMost(kind: EstimateKind): string {
  return kind === "upper" ? "at most " : "";
}

/** How a figure was come by. */
export function manner({ draws, form }: { draws: number; form: EstimateForm }): string {
  return draws > 0 ? `${draws} draws, ${form}` : form;
}

export function numberOf(text: string, name: string): number {
  const number = Number(text);
  if (text.trim() !== "" && Number.isFinite(number)) return number;
  throw new NoemaError("ERR_INVALID_ARGUMENT", `--${name}: "${text}" is no number`, { option: name });
}

/** Up to 64 bits, so not by way of a number. */
export function seedOf(text: string): bigint | number {
  return /^\d+$/.test(text) ? BigInt(text) : numberOf(text, "seed");
}
