/** A checkpoint is a folder: config.json, the tensors, and perhaps a tokenizer. Reading one whole, and writing one. */

import { randomUUID } from "node:crypto";
import { mkdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { NoemaError } from "../errors.js";
import { exists, fileInside, ioError, readRegular, syncFolder, writeAll, writeDurably } from "../files.js";
import type { JsonObject } from "../json.js";
import { type ConfigFile, type Family, type FamilyConfigs, type ModelConfig, readConfig } from "./config.js";
import { type Dtype, toBf16 } from "./dtype.js";
import type { Layout, TensorSpec } from "./layout.js";
import { findLayout, layoutNamed } from "./registry.js";
import { type TensorData, type TensorToWrite, writeSafetensors } from "./safetensors.js";
import { type LocatedTensor, readTensorTable, WEIGHTS_FILE } from "./shards.js";

const CONFIG_FILE = "config.json";
export const TOKENIZER_FILE = "tokenizer.json";

export interface Checkpoint<Config extends ModelConfig = ModelConfig> {
  readonly folder: string;
  readonly layout: Layout<Config>;
  readonly config: Config;
  /** By canonical name: exactly the tensors of the config, each of its shape, in f32, bf16 or f16. */
  readonly tensors: ReadonlyMap<string, LocatedTensor>;
  /** tokenizer.json, when the folder has one. */
  readonly tokenizer: string | undefined;
  /** config.json as it is. */
  readonly raw: Readonly<JsonObject>;
}

/** Element types that weights may have. */
const weightDtypes: readonly Dtype[] = ["F32", "BF16", "F16"];

function bad(path: string, problem: string, details: JsonObject = {}): NoemaError {
  return new NoemaError("ERR_BAD_CHECKPOINT", `${path}: ${problem}`, { path, ...details });
}

/** Reads and checks everything but the tensors' bytes. */
export async function openCheckpoint(folder: string): Promise<Checkpoint> {
  const config = await openConfig(folder);
  const layout = findLayout(config);
  const parsed = layout.parse(config);
  const tensors = matchTensors(folder, layout, layout.tensors(parsed), await readTensorTable(folder));
  const tokenizer = await fileInside(folder, TOKENIZER_FILE, "ERR_BAD_TOKENIZER");
  return { folder, layout, config: parsed, tensors, tokenizer, raw: config.values };
}

/** The checkpoint as one of this family; refuses others. */
export function ofFamily<F extends Family>(checkpoint: Checkpoint, family: F): Checkpoint<FamilyConfigs[F]> {
  const { layout, folder } = checkpoint;
  if (layout.family === family) return checkpoint as Checkpoint<ModelConfig> as Checkpoint<FamilyConfigs[F]>;
  const message = `${folder}: a model of the ${layout.family} family; this works for the ${family} family`;
  throw new NoemaError("ERR_UNSUPPORTED", message, { folder, family: layout.family, expected: family });
}

async function openConfig(folder: string): Promise<ConfigFile> {
  if (!(await exists(folder))) throw new NoemaError("ERR_IO", `${folder}: there is no such folder`, { path: folder });
  const path = await fileInside(folder, CONFIG_FILE, "ERR_BAD_CHECKPOINT");
  if (path === undefined) throw bad(folder, `${CONFIG_FILE} is missing: not a checkpoint folder`);
  return readConfig(path);
}

/** Pairs what the config asks for with what the files hold; both must agree in names and shapes. */
function matchTensors(folder: string, layout: Layout, specs: TensorSpec[], found: Map<string, LocatedTensor>) {
  const prefix = layout.prefixes.find((candidate) => found.has(candidate + layout.anchor)) ?? layout.prefixes[0] ?? "";
  const matched = new Map<string, LocatedTensor>();
  const left = new Map(found);
  for (const { name, canonical, shape } of specs) {
    const tensor = left.get(prefix + name);
    if (tensor === undefined) {
      const expected = `tensor "${prefix}${name}" of shape [${shape}] is missing: found nothing, expected it`;
      throw bad(folder, expected, { name: prefix + name, expected: shape });
    }
    checkTensor(tensor, shape);
    matched.set(canonical, tensor);
    left.delete(prefix + name);
  }
  for (const [name, { path, shape }] of left) {
    if (layout.buffers.test(name)) continue;
    const found = `found tensor "${name}" of shape [${shape}]`;
    throw bad(path, `${found}, expected none of that name in layout "${layout.name}" with this ${CONFIG_FILE}`, {
      name,
    });
  }
  return matched;
}

function checkTensor({ path, name, dtype, shape }: LocatedTensor, expected: number[]): void {
  if (shape.length !== expected.length || shape.some((size, i) => size !== expected[i])) {
    const problem = `tensor "${name}": found shape [${shape}], expected [${expected}]`;
    throw bad(path, problem, { name, found: shape, expected });
  }
  if (weightDtypes.includes(dtype)) return;
  throw bad(path, `tensor "${name}": found dtype ${dtype}, expected ${weightDtypes.join(", ")}`, {
    name,
    found: dtype,
  });
}

/** f32 values, or bf16 bits. */
export type WeightData = Float32Array | Uint16Array;
/** A function is called when its tensor's turn comes, so that one tensor at a time is in memory. */
export type WeightSource = WeightData | (() => Promise<WeightData>);

export interface CheckpointToWrite {
  config: ModelConfig;
  /** By canonical name. */
  tensors: ReadonlyMap<string, WeightSource>;
  /** What the file holds; f32 values are rounded to the nearest bf16. Default F32. */
  dtype?: "F32" | "BF16";
  /** The file of its tokenizer, whatever its name. */
  tokenizer?: string;
}

/**
 * Writes a checkpoint. Everything is written and made durable in a staging folder first, so a full disk or a failing
 * tensor leaves the target as it was. A new target then appears by one rename. In an existing one the files are replaced
 * one by one, config.json last; when the config differs from the old one, that is removed before, so that a crash in
 * between leaves a folder that is refused rather than weights under another model's config.
 */
export async function writeCheckpoint(folder: string, checkpoint: CheckpointToWrite): Promise<void> {
  const target = resolve(folder);
  const replaces = await exists(target);
  const staging = join(replaces ? target : dirname(target), `.${basename(target)}.${randomUUID()}.tmp`);
  try {
    if (!replaces) await mkdir(dirname(target), { recursive: true });
    await mkdir(staging);
    const names = await stage(staging, checkpoint);
    if (replaces) await replaceFiles(staging, target, names);
    else await rename(staging, target);
    await syncFolder(dirname(target));
  } catch (error) {
    throw ioError("writing the checkpoint", folder, error);
  } finally {
    await rm(staging, { recursive: true, force: true }).catch(() => undefined);
  }
}

/** Writes all files; gives their names, config.json last. */
async function stage(staging: string, { config, tensors, dtype = "F32", tokenizer }: CheckpointToWrite) {
  const layout: Layout = layoutNamed(config.layout);
  const json = layout.config(config);
  layout.parse({ path: "the config to write", values: json });
  await writeSafetensors(join(staging, WEIGHTS_FILE), plan(layout, config, tensors, dtype), { format: "pt" });
  if (tokenizer !== undefined) {
    const bytes = await readRegular(tokenizer, "ERR_BAD_TOKENIZER");
    await writeDurably(join(staging, TOKENIZER_FILE), (handle) => writeAll(handle, bytes));
  }
  const text = Buffer.from(`${JSON.stringify(json, null, 2)}\n`);
  await writeDurably(join(staging, CONFIG_FILE), (handle) => writeAll(handle, text));
  await syncFolder(staging);
  return [WEIGHTS_FILE, ...(tokenizer === undefined ? [] : [TOKENIZER_FILE]), CONFIG_FILE];
}

function plan(
  layout: Layout,
  config: ModelConfig,
  tensors: CheckpointToWrite["tensors"],
  dtype: "F32" | "BF16",
): TensorToWrite[] {
  const specs = layout.tensors(config);
  const known = new Set(specs.map(({ canonical }) => canonical));
  for (const name of tensors.keys()) {
    if (!known.has(name))
      throw new NoemaError("ERR_INVALID_ARGUMENT", `tensor "${name}": this config has none of that name`);
  }
  return specs.map(({ name, canonical, shape }) => {
    const data = tensors.get(canonical);
    if (data === undefined) throw new NoemaError("ERR_INVALID_ARGUMENT", `tensor "${canonical}" is missing`);
    const converted = async () => convert(typeof data === "function" ? await data() : data, dtype);
    return { name: layout.prefixes[0] + name, dtype, shape, data: converted };
  });
}

/** bf16 bits asked for as F32 stay what they are, 16 bits wide, and the writer refuses them: widening hides a mistake. */
function convert(data: WeightData, dtype: "F32" | "BF16"): TensorData {
  return dtype === "BF16" && data instanceof Float32Array ? toBf16(data) : data;
}

async function replaceFiles(staging: string, target: string, names: string[]): Promise<void> {
  const config = join(target, CONFIG_FILE);
  if (!(await sameBytes(join(staging, CONFIG_FILE), config))) {
    await rm(config, { force: true });
    await syncFolder(target);
  }
  for (const name of names) {
    if (name === CONFIG_FILE) await syncFolder(target);
    await rename(join(staging, name), join(target, name));
  }
  await syncFolder(target);
}

async function sameBytes(a: string, b: string): Promise<boolean> {
  if (!(await exists(b))) return false;
  const [ours, theirs] = [await readRegular(a, "ERR_IO"), await readRegular(b, "ERR_IO")];
  return ours.equals(theirs);
}
