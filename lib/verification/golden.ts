/** A golden folder's expectations: expected.json says what the arrays of expected.safetensors are. */

import { join } from "node:path";
import { SafetensorsFile } from "../checkpoint/safetensors.js";
import { NoemaError } from "../errors.js";
import { readLimited } from "../files.js";
import { isObject, type JsonObject, parseObject } from "../json.js";

export type Values = Float32Array | Float64Array | Int32Array | Uint8Array;

export interface GoldenArray {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Values;
}

const EXPECTED_LIMIT = 1 << 26;

export class Golden {
  readonly arrays: ReadonlyMap<string, GoldenArray>;
  readonly description: Readonly<JsonObject>;

  constructor(arrays: ReadonlyMap<string, GoldenArray>, description: Readonly<JsonObject>) {
    this.arrays = arrays;
    this.description = description;
  }

  static async open(folder: string): Promise<Golden> {
    const path = join(folder, "expected.json");
    const description = parseObject(await readLimited(path, EXPECTED_LIMIT, "ERR_IO"), path, "ERR_IO");
    await using file = await SafetensorsFile.open(join(folder, "expected.safetensors"));
    const arrays = new Map<string, GoldenArray>();
    for (const { name, shape, dtype } of file.tensors.values()) {
      arrays.set(name, { name, shape, values: typed(name, dtype, await file.read(name)) });
    }
    return new Golden(arrays, description);
  }

  has(name: string): boolean {
    return this.arrays.has(name);
  }

  get(name: string): GoldenArray {
    const found = this.arrays.get(name);
    if (found) return found;
    throw new NoemaError("ERR_INVALID_ARGUMENT", `expected.safetensors has no array "${name}", which others need`);
  }

  floats(name: string): Float32Array | Float64Array {
    const { values } = this.get(name);
    if (values instanceof Float32Array || values instanceof Float64Array) return values;
    throw new NoemaError("ERR_INVALID_ARGUMENT", `array "${name}": expected floating-point numbers`);
  }

  ids(name: string): Int32Array {
    const { values } = this.get(name);
    return values instanceof Int32Array ? values : Int32Array.from(values);
  }

  /** The entry of "params" for a group of arrays, over what all groups have in common. */
  parameters(group: string): JsonObject {
    const { params, common } = this.description;
    const own = isObject(params) ? params[group] : undefined;
    return { ...(isObject(common) ? common : {}), ...(isObject(own) ? own : {}) };
  }

  /** Names of groups: the keys of "params". */
  groups(): string[] {
    const { params } = this.description;
    return isObject(params) ? Object.keys(params) : [];
  }
}

/** A parameter that must be a number; those of a wrong type come with the name of their group. */
export function numberOf(parameters: JsonObject, name: string, fallback?: number): number {
  const value = parameters[name] ?? fallback;
  if (typeof value === "number") return value;
  throw new NoemaError("ERR_INVALID_ARGUMENT", `expected.json: params: "${name}": expected a number`);
}

function typed(name: string, dtype: string, bytes: Uint8Array<ArrayBuffer>): Values {
  const { buffer } = bytes;
  if (dtype === "F32") return new Float32Array(buffer);
  if (dtype === "F64") return new Float64Array(buffer);
  if (dtype === "I32") return new Int32Array(buffer);
  if (dtype === "I64") return Int32Array.from(new BigInt64Array(buffer), Number);
  if (dtype === "U8") return bytes;
  throw new NoemaError("ERR_UNSUPPORTED", `array "${name}": dtype ${dtype} is not compared`);
}
