/** The tensors of a folder: one model.safetensors, or shards that model.safetensors.index.json lists. */

import { join } from "node:path";
import { NoemaError } from "../errors.js";
import { fileInside, readLimited } from "../files.js";
import { describe, isObject, type JsonObject, parseObject } from "../json.js";
import { HEADER_LIMIT, SafetensorsFile, type TensorEntry } from "./safetensors.js";

export const WEIGHTS_FILE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";

export interface LocatedTensor extends TensorEntry {
  /** The file that holds it. */
  readonly path: string;
}

function bad(path: string, problem: string, details: JsonObject = {}): NoemaError {
  return new NoemaError("ERR_BAD_CHECKPOINT", `${path}: ${problem}`, { path, ...details });
}

/** Every tensor of the folder by its name in the files. Headers are read, tensors' bytes are not. */
export async function readTensorTable(folder: string): Promise<Map<string, LocatedTensor>> {
  const single = await fileInside(folder, WEIGHTS_FILE, "ERR_BAD_CHECKPOINT");
  if (single !== undefined) return new Map((await tensorsOf(single)).map((tensor) => [tensor.name, tensor]));
  const index = await fileInside(folder, INDEX_FILE, "ERR_BAD_CHECKPOINT");
  if (index === undefined) throw bad(folder, `neither ${WEIGHTS_FILE} nor ${INDEX_FILE} is here`);
  return readShards(folder, await readIndex(index));
}

/** Tensor name -> name of its shard. */
async function readIndex(path: string): Promise<Map<string, string>> {
  const bytes = await readLimited(path, HEADER_LIMIT, "ERR_BAD_CHECKPOINT");
  const { weight_map: map } = parseObject(bytes, path, "ERR_BAD_CHECKPOINT");
  if (!isObject(map)) throw bad(path, `"weight_map": found ${describe(map)}, expected an object`);
  for (const [name, file] of Object.entries(map)) {
    if (typeof file === "string" && file.endsWith(".safetensors")) continue;
    throw bad(
      path,
      `"weight_map": tensor "${name}": found ${describe(file)}, expected the name of a .safetensors file`,
    );
  }
  return new Map(Object.entries(map) as [string, string][]);
}

/** Reads every shard once and holds it against the index: both must list the same tensors in the same files. */
async function readShards(folder: string, index: Map<string, string>): Promise<Map<string, LocatedTensor>> {
  const table = new Map<string, LocatedTensor>();
  for (const shard of new Set(index.values())) {
    const path = await fileInside(folder, shard, "ERR_BAD_CHECKPOINT");
    if (path === undefined) throw bad(join(folder, INDEX_FILE), `the shard "${shard}" that it lists is missing`);
    for (const tensor of await tensorsOf(path)) {
      if (index.get(tensor.name) !== shard) {
        const listed = index.has(tensor.name) ? `in "${index.get(tensor.name)}"` : "nowhere";
        throw bad(path, `holds tensor "${tensor.name}", which ${INDEX_FILE} lists ${listed}`, { name: tensor.name });
      }
      table.set(tensor.name, tensor);
    }
  }
  for (const [name, shard] of index) {
    if (!table.has(name))
      throw bad(join(folder, shard), `lacks tensor "${name}", which ${INDEX_FILE} lists in it`, { name });
  }
  return table;
}

async function tensorsOf(path: string): Promise<LocatedTensor[]> {
  await using file = await SafetensorsFile.open(path);
  return [...file.tensors.values()].map((entry) => ({ ...entry, path }));
}
