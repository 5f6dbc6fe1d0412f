/**
 * What a run needs to go on as if it had never stopped: the folder `state` with parameters, optimiser moments, the average,
 * and state.json. A new state is written beside the old one as `state.next`, made durable, and then takes its place by two
 * renames (`state` -> `state.old`, `state.next` -> `state`). state.json is written last, so a `state.next` that has one is
 * complete. Killed at any instant, `settle` finds a whole state: `state`; else a complete `state.next`; else `state.old`.
 */

import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { ModelConfig } from "../checkpoint/config.js";
import { SafetensorsFile, type TensorToWrite, writeSafetensors } from "../checkpoint/safetensors.js";
import { NoemaError } from "../errors.js";
import { exists, ioError, readLimited, syncFolder, writeAll, writeAtomically } from "../files.js";
import { describe, isObject, parseObject } from "../json.js";
import type { NativeTrainer, TrainerBuffer } from "../native/addon.js";
import {
  allows,
  changeable,
  expectedBy,
  fixedNames,
  type OptionEntry,
  optionNames,
  optionTable,
  type TrainSettings,
} from "./options.js";

const FORMAT = 1;
const STATE_LIMIT = 1 << 20;

export interface TrainingState {
  /** Steps done. */
  step: number;
  /** Tokens seen. */
  tokens: number;
  /** Seconds of training, over all sessions. */
  seconds: number;
  settings: TrainSettings;
  config: ModelConfig;
  /** SHA-256 of what the run depends on. */
  corpus: string;
  tokenizer: string;
}

export type StateBuffer = Exclude<TrainerBuffer, "gradient">;

/** A trainer's buffers, or a stand-in. */
export type StateSource = Pick<NativeTrainer, "names" | "read">;

export interface SaveOptions {
  /** Also the moving average. */
  average: boolean;
  /** Called before every operation that touches the disk (tests make it fail). */
  observe?: (operation: string) => void;
}

function buffersOf(average: boolean): StateBuffer[] {
  return average ? ["parameter", "m", "v", "average"] : ["parameter", "m", "v"];
}

const place = (run: string) => ({
  state: join(run, "state"),
  next: join(run, "state.next"),
  old: join(run, "state.old"),
});

/** Whatever fails, the state that was there before stays loadable. */
export async function saveState(
  run: string,
  state: TrainingState,
  source: StateSource,
  options: SaveOptions,
): Promise<void> {
  const observe = options.observe ?? (() => undefined);
  const { state: current, next, old } = place(run);
  try {
    await settle(run);
    observe("create the folder");
    await mkdir(next);
    for (const buffer of buffersOf(options.average)) {
      observe(`create ${buffer}.safetensors`);
      const tensors = tensorsToWrite(buffer, source, { step: state.step, observe });
      await writeSafetensors(join(next, `${buffer}.safetensors`), tensors);
    }
    observe("write state.json");
    await writeJson(join(next, "state.json"), { format: FORMAT, ...state });
    await syncFolder(next);
    observe("move the old state away");
    if (await exists(current)) await rename(current, old);
    observe("move the new state in");
    await rename(next, current);
    await syncFolder(run);
    observe("remove the old state");
    await rm(old, { recursive: true, force: true });
  } catch (error) {
    throw ioError("saving the training state", run, error);
  }
}

function tensorsToWrite(
  buffer: StateBuffer,
  source: StateSource,
  { step, observe }: { step: number; observe: (operation: string) => void },
): TensorToWrite[] {
  return source.names().map(({ name, shape }) => {
    const data = async () => {
      observe(`write ${buffer} ${name}`);
      const values = await source.read(buffer, name);
      if (allFinite(values)) return values;
      throw new NoemaError("ERR_NON_FINITE", `step ${step}: ${buffer} of tensor "${name}" holds a NaN or an infinity`);
    };
    return { name, shape, dtype: "F32", data };
  });
}

/** Anything finite times 0 is 0, anything else is NaN: one sum tells. */
function allFinite(values: Float32Array): boolean {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]! * 0;
  return sum === 0;
}

async function writeJson(path: string, value: object): Promise<void> {
  const text = Buffer.from(`${JSON.stringify(value, null, 2)}\n`);
  await writeAtomically(path, (handle) => writeAll(handle, text));
}

/** Brings a folder that was left in the middle of a save to one whole `state`, or none. */
export async function settle(run: string): Promise<void> {
  const { state, next, old } = place(run);
  if (!(await exists(state))) {
    if (await exists(join(next, "state.json"))) await rename(next, state);
    else if (await exists(old)) await rename(old, state);
  }
  await rm(next, { recursive: true, force: true });
  await rm(old, { recursive: true, force: true });
}

/** The saved state of a run's folder, or undefined when it has none. */
export async function loadState(run: string): Promise<TrainingState | undefined> {
  try {
    await settle(run);
  } catch (error) {
    throw ioError("looking for a training state", run, error);
  }
  const folder = place(run).state;
  if (!(await exists(folder))) return undefined;
  const path = join(folder, "state.json");
  if (!(await exists(path))) throw badState(path, "is missing");
  const value = parseObject(await readLimited(path, STATE_LIMIT, "ERR_BAD_STATE"), path, "ERR_BAD_STATE");
  return checkState(path, value);
}

function checkState(path: string, value: Record<string, unknown>): TrainingState {
  if (value.format !== FORMAT) throw badState(path, `"format" is ${describe(value.format)}, expected ${FORMAT}`);
  for (const name of ["step", "tokens"])
    if (!Number.isSafeInteger(value[name]) || (value[name] as number) < 0)
      throw badState(path, `"${name}" must be a non-negative integer`);
  if (!Number.isFinite(value.seconds) || (value.seconds as number) < 0)
    throw badState(path, '"seconds" must be a non-negative number');
  for (const name of ["corpus", "tokenizer"])
    if (typeof value[name] !== "string") throw badState(path, `"${name}" must be a string`);
  for (const name of ["settings", "config"])
    if (!isObject(value[name])) throw badState(path, `"${name}" must be an object`);
  const { format: _, ...others } = value;
  const state = others as unknown as TrainingState;
  checkSettings(path, state.settings);
  checkProgress(path, state);
  return state;
}

/** Those that are there: a state from before an option existed lacks it. */
function checkSettings(path: string, settings: TrainSettings): void {
  for (const name of optionNames) {
    const rule: OptionEntry = optionTable[name];
    if (settings[name] !== undefined && !allows(rule, settings[name]))
      throw badState(path, `"settings.${name}" is ${describe(settings[name])}, expected ${expectedBy(rule)}`);
  }
}

/** How far the run is, held against what its settings allow. How long a step was may have been changed on the way. */
function checkProgress(path: string, { step, tokens, settings }: TrainingState): void {
  const { steps = optionTable.steps.default } = settings;
  if (step > steps) throw badState(path, `"step" is ${step}, expected at most the run's ${steps} steps`);
  const [least, most] = [optionTable.length.least, optionTable.batch.most * optionTable.length.most];
  if (tokens < step * least || tokens > step * most)
    throw badState(path, `"tokens" is ${tokens}, which ${step} steps cannot have seen`);
}

/** One saved tensor. */
export interface SavedTensor {
  name: string;
  shape: number[];
  data: Float32Array;
}

/** The tensors of one buffer, one at a time; they must be exactly the expected ones. */
export async function* readBuffer(
  run: string,
  buffer: StateBuffer,
  expected: readonly { name: string; shape: readonly number[] }[],
): AsyncGenerator<SavedTensor> {
  const path = join(place(run).state, `${buffer}.safetensors`);
  await using file = await openBuffer(path);
  const extra = [...file.tensors.keys()].find((name) => !expected.some((tensor) => tensor.name === name));
  if (extra !== undefined) throw badState(path, `holds tensor "${extra}", which the model does not have`);
  for (const { name, shape } of expected) {
    const found = file.tensors.get(name);
    if (found?.dtype !== "F32" || found.shape.join() !== shape.join())
      throw badState(
        path,
        `tensor "${name}": found ${found ? `${found.dtype} [${found.shape}]` : "nothing"}, expected F32 [${shape}]`,
      );
    const data = await file.readFloat32(name);
    if (!allFinite(data)) throw badState(path, `tensor "${name}" holds a NaN or an infinity`);
    yield { name, shape: [...shape], data };
  }
}

async function openBuffer(path: string): Promise<SafetensorsFile> {
  try {
    return await SafetensorsFile.open(path);
  } catch (error) {
    throw new NoemaError("ERR_BAD_STATE", (error as Error).message, { path }, { cause: error });
  }
}

/** What a run wants to be; the corpus is left out until it has been read. */
export type Wanted = Pick<TrainingState, "settings" | "config" | "tokenizer"> & { corpus?: string };

/** Holds what a run wants to be against what was saved; ERR_BAD_STATE names the first option that contradicts. */
export function checkContinuation(saved: TrainingState, wanted: Wanted, changes: readonly string[] = []): void {
  for (const name of fixedNames) {
    // A state from before an option existed did what is its default now.
    const before = saved.settings[name] ?? optionTable[name].default;
    if (before !== wanted.settings[name] && !changes.includes(name))
      throw contradiction(name, before, wanted.settings[name]);
  }
  for (const [name, value] of Object.entries(wanted.config)) {
    const before = saved.config[name as keyof ModelConfig];
    if (!isDeepStrictEqual(before, value)) throw contradiction(name, before, value);
  }
  for (const name of ["tokenizer", "corpus"] as const) {
    const hash = wanted[name];
    if (hash === undefined || saved[name] === hash || changes.includes(name)) continue;
    throw contradiction(name, saved[name].slice(0, 12), hash.slice(0, 12));
  }
}

function contradiction(option: string, saved: unknown, given: unknown): NoemaError {
  const changing = changeable.includes(option) ? `, name "${option}" under changes` : "";
  const remedy = `give what the run began with${changing}, or start in another folder`;
  return new NoemaError(
    "ERR_BAD_STATE",
    `the saved state has ${option} ${shown(saved)}, but ${shown(given)} was given: ${remedy}`,
    {
      option,
      saved,
      given,
    },
  );
}

/** What the saved state holds may be anything. */
function shown(value: unknown): string {
  return typeof value === "string" ? value : describe(value);
}

function badState(path: string, problem: string): NoemaError {
  return new NoemaError("ERR_BAD_STATE", `${path}: ${problem}`, { path });
}
