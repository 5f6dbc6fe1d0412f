/**
 * The safetensors format. Layout of a file: 8 bytes, little-endian, the header's length N; N bytes of JSON (name -> dtype,
 * shape, byte range); then the tensors' bytes. A file is untrusted: every length is compared with the file's size before
 * anything is allocated, and the byte ranges must tile the data exactly, without a gap, an overlap or a tail.
 */

import type { FileHandle } from "node:fs/promises";
import { NoemaError } from "../errors.js";
import { ioError, openRegular, readExactly, writeAll, writeAtomically } from "../files.js";
import { describe, isObject, type JsonObject, parseObject } from "../json.js";
import { type Dtype, dtypeBytes, fromBf16, fromF16, isDtype, unreadDtypes } from "./dtype.js";

/** Some 100,000 tensors. The format's own library reads headers of up to 100 MB, which take seconds in which nothing else could run. */
export const HEADER_LIMIT = 16_000_000;
const NAME_LIMIT = 1024;
const RANK_LIMIT = 16;

export interface TensorEntry {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Of the first byte, from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

function bad(path: string, problem: string, details: JsonObject = {}): NoemaError {
  return new NoemaError("ERR_BAD_CHECKPOINT", `${path}: ${problem}`, { path, ...details });
}

/** An open file: its table of tensors, and their bytes on demand. */
export class SafetensorsFile implements AsyncDisposable {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly #handle: FileHandle;

  private constructor(path: string, handle: FileHandle, header: Header) {
    this.path = path;
    this.#handle = handle;
    this.tensors = header.tensors;
    this.metadata = header.metadata;
  }

  static async open(path: string): Promise<SafetensorsFile> {
    let handle: FileHandle | undefined;
    try {
      handle = await openRegular(path, "ERR_BAD_CHECKPOINT");
      return new SafetensorsFile(path, handle, await readHeader(handle, path));
    } catch (error) {
      await handle?.close();
      throw ioError("reading", path, error);
    }
  }

  /** The tensor's bytes as the file holds them. */
  async read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    const { offset, bytes } = this.#entry(name);
    try {
      const buffer = new Uint8Array(bytes);
      await readExactly(this.#handle, this.path, buffer, offset);
      return buffer;
    } catch (error) {
      throw ioError("reading", this.path, error);
    }
  }

  /** The tensor as 32-bit floats. Integers of 64 bits are not offered: they do not fit. */
  async readFloat32(name: string): Promise<Float32Array<ArrayBuffer>> {
    const { dtype } = this.#entry(name);
    const { buffer } = await this.read(name);
    switch (dtype) {
      case "F32":
        return new Float32Array(buffer);
      case "BF16":
        return fromBf16(new Uint16Array(buffer));
      case "F16":
        return fromF16(new Uint16Array(buffer));
      case "F64":
        return new Float32Array(new Float64Array(buffer));
      default:
        throw bad(this.path, `tensor "${name}": found dtype ${dtype}, expected F32, BF16, F16 or F64`, { name, dtype });
    }
  }

  close(): Promise<void> {
    return this.#handle.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #entry(name: string): TensorEntry {
    const entry = this.tensors.get(name);
    if (entry === undefined) throw bad(this.path, `there is no tensor "${name}"`, { name });
    return entry;
  }
}

interface Header {
  tensors: Map<string, TensorEntry>;
  metadata: Record<string, string>;
}

async function readHeader(handle: FileHandle, path: string): Promise<Header> {
  const stats = await handle.stat();
  if (stats.size < 8) throw bad(path, `${stats.size} bytes, too short for a header`);
  const prefix = Buffer.alloc(8);
  await readExactly(handle, path, prefix, 0);
  const length = prefix.readBigUInt64LE();
  if (length > BigInt(HEADER_LIMIT)) {
    throw bad(path, `the header claims ${length} bytes, expected at most ${HEADER_LIMIT}`);
  }
  const dataStart = 8 + Number(length);
  if (dataStart > stats.size) {
    throw bad(path, `the header claims ${length} bytes, but only ${stats.size - 8} follow: the file is cut short`);
  }
  const bytes = Buffer.alloc(Number(length));
  await readExactly(handle, path, bytes, 8);
  return parseHeader(bytes, path, { dataStart, dataBytes: stats.size - dataStart });
}

interface Extent {
  dataStart: number;
  dataBytes: number;
}

function parseHeader(bytes: Buffer, path: string, extent: Extent): Header {
  if (bytes[0] !== 0x7b) throw bad(path, "the header does not start with {: not a safetensors file");
  const { __metadata__: metadata, ...entries } = parseObject(bytes, `${path}: header`, "ERR_BAD_CHECKPOINT");
  const list = Object.entries(entries).map(([name, value]) => parseEntry(path, name, value, extent));
  checkTiling(path, list, extent);
  return {
    tensors: new Map(list.map((entry) => [entry.name, entry])),
    metadata: parseMetadata(path, metadata ?? {}),
  };
}

function parseMetadata(path: string, metadata: unknown): Record<string, string> {
  if (!isObject(metadata) || !Object.values(metadata).every((value) => typeof value === "string")) {
    throw bad(path, "__metadata__: expected an object of strings");
  }
  return metadata as Record<string, string>;
}

function parseEntry(path: string, name: string, value: unknown, extent: Extent): TensorEntry {
  checkName(path, name);
  const label = `tensor "${name}"`;
  if (!isObject(value)) throw bad(path, `${label}: found ${describe(value)}, expected an object`, { name });
  const { dtype, shape, data_offsets: range, ...others } = value;
  const unknown = Object.keys(others)[0];
  if (unknown !== undefined) throw bad(path, `${label}: unknown key "${unknown}"`, { name });
  checkDtype(path, label, dtype);
  const bytes = checkedShape(path, label, shape) * dtypeBytes[dtype];
  if (!Array.isArray(range) || range.length !== 2 || !range.every(isSize)) {
    throw bad(path, `${label}: data_offsets must be two non-negative integers`, { name });
  }
  const [begin, end] = range as [number, number];
  if (end < begin || end > extent.dataBytes) {
    const problem = `data_offsets [${begin}, ${end}] do not lie within the file's ${extent.dataBytes} bytes of data`;
    throw bad(path, `${label}: ${problem}: the file is cut short or its header is wrong`, { name });
  }
  if (end - begin !== bytes) {
    const found = `data_offsets span ${end - begin} bytes`;
    throw bad(path, `${label}: ${found}, but ${dtype} of shape [${shape}] takes ${bytes}`, { name });
  }
  return { name, dtype, shape: shape as number[], offset: extent.dataStart + begin, bytes };
}

function checkName(path: string, name: string): void {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
  if (name === "" || name.length > NAME_LIMIT || /[\x00-\x1f\x7f]/.test(name)) {
    throw bad(path, `tensor name ${describe(name)}: expected 1 to ${NAME_LIMIT} characters without control characters`);
  }
}

function checkDtype(path: string, label: string, dtype: unknown): asserts dtype is Dtype {
  if (isDtype(dtype)) return;
  const readable = Object.keys(dtypeBytes).join(", ");
  if (typeof dtype === "string" && unreadDtypes.includes(dtype)) {
    throw new NoemaError("ERR_UNSUPPORTED", `${path}: ${label}: dtype ${dtype} is not read; ${readable} are`, {
      dtype,
    });
  }
  throw bad(path, `${label}: found dtype ${describe(dtype)}, expected one of ${readable}`);
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** The number of elements, known to be exact with up to 8 bytes each. */
function checkedShape(path: string, label: string, shape: unknown): number {
  if (!Array.isArray(shape) || shape.length > RANK_LIMIT || !shape.every(isSize)) {
    throw bad(path, `${label}: shape must be at most ${RANK_LIMIT} non-negative integers`);
  }
  const count = shape.includes(0) ? 0 : (shape as number[]).reduce((product, size) => product * size, 1);
  if (count * 8 > Number.MAX_SAFE_INTEGER) throw bad(path, `${label}: shape [${shape}] has too many elements`);
  return count;
}

function checkTiling(path: string, list: TensorEntry[], { dataStart, dataBytes }: Extent): void {
  const sorted = [...list].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let end = dataStart;
  for (const entry of sorted) {
    if (entry.offset !== end) {
      const problem = entry.offset < end ? "overlaps the tensor before it" : "leaves a gap before it";
      throw bad(path, `tensor "${entry.name}" ${problem}: starts at ${entry.offset}, expected ${end}`);
    }
    end += entry.bytes;
  }
  if (end !== dataStart + dataBytes) {
    throw bad(path, `${dataStart + dataBytes - end} bytes after the last tensor belong to none`);
  }
}

export type TensorData = Float32Array | Float64Array | Int32Array | BigInt64Array | Uint16Array | Uint8Array;

export interface TensorToWrite {
  name: string;
  dtype: Dtype;
  shape: readonly number[];
  /** Elements in row-major order, or a function that makes them when their turn comes: one tensor is in memory at a time. */
  data: TensorData | (() => Promise<TensorData>);
}

/** Writes the file atomically (`writeAtomically`). Tensors are laid out widest elements first, so that each is aligned. */
export async function writeSafetensors(
  path: string,
  tensors: readonly TensorToWrite[],
  metadata: Record<string, string> = {},
): Promise<void> {
  const { header, ordered } = planFile(path, tensors, metadata);
  await writeAtomically(path, async (handle) => {
    await writeAll(handle, header);
    for (const tensor of ordered) {
      const data = typeof tensor.data === "function" ? await tensor.data() : tensor.data;
      checkData(path, tensor, data);
      await writeAll(handle, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    }
  });
}

function planFile(path: string, tensors: readonly TensorToWrite[], metadata: Record<string, string>) {
  const ordered = [...tensors].sort((a, b) => dtypeBytes[b.dtype] - dtypeBytes[a.dtype]);
  const entries = new Map<string, unknown>([["__metadata__", metadata]]);
  let end = 0;
  for (const { name, dtype, shape } of ordered) {
    checkName(path, name);
    if (entries.has(name)) throw invalid(`${path}: two tensors are named "${name}"`);
    const begin = end;
    end += checkedShape(path, `tensor "${name}"`, shape) * dtypeBytes[dtype];
    entries.set(name, { dtype, shape, data_offsets: [begin, end] });
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  // Spaces after the JSON make the data start at a multiple of 8, as every dtype's alignment wants.
  const header = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, " ");
  if (header.length - 8 > HEADER_LIMIT) throw invalid(`${path}: the header would exceed ${HEADER_LIMIT} bytes`);
  header.writeBigUInt64LE(BigInt(header.length - 8));
  json.copy(header, 8);
  return { header, ordered };
}

function checkData(path: string, { name, dtype, shape }: TensorToWrite, data: TensorData): void {
  const expected = checkedShape(path, `tensor "${name}"`, shape);
  if (data.BYTES_PER_ELEMENT === dtypeBytes[dtype] && data.length === expected) return;
  const given = `${data.length} elements of ${data.BYTES_PER_ELEMENT} bytes`;
  throw invalid(`tensor "${name}": ${given}, expected ${dtype} of shape [${shape}], ${expected} elements`);
}

function invalid(message: string): NoemaError {
  return new NoemaError("ERR_INVALID_ARGUMENT", message);
}
