import { readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import fc from "fast-check";
import { type Dtype, dtypeBytes } from "../../../lib/checkpoint/dtype.js";
import { SafetensorsFile, type TensorToWrite, writeSafetensors } from "../../../lib/checkpoint/safetensors.js";
import { temporaryFolder } from "../temporary.js";

/** A file with this header text and this many zero bytes of data; `claim` is the header length it states. */
async function fileOf(t: ExecutionContext, header: unknown, dataBytes = 0, claim?: bigint): Promise<string> {
  const text = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(claim ?? BigInt(text.length));
  const path = join(await temporaryFolder(t), "x.safetensors");
  await writeFile(path, Buffer.concat([prefix, text, Buffer.alloc(dataBytes)]));
  return path;
}

async function refused(t: ExecutionContext, path: string, message: RegExp, code = "ERR_BAD_CHECKPOINT") {
  const error = await t.throwsAsync(SafetensorsFile.open(path), { code, message });
  t.true(error?.message.startsWith(path));
}

const entry = (dtype: string, shape: unknown, begin: unknown, end: unknown) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

const arrays = {
  F64: Float64Array,
  F32: Float32Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I64: BigInt64Array,
  I32: Int32Array,
  U8: Uint8Array,
};

const tensorList = fc.uniqueArray(
  fc.record({
    name: fc.string({ minLength: 1, maxLength: 12, unit: "grapheme-ascii" }),
    dtype: fc.constantFrom(...(Object.keys(dtypeBytes) as Dtype[])),
    shape: fc.array(fc.nat(4), { maxLength: 3 }),
    fill: fc.uint8Array({ minLength: 8, maxLength: 8 }),
  }),
  { selector: ({ name }) => name, maxLength: 6 },
);

test("what was written is read back, byte for byte, and aligned", async (t) => {
  const path = join(await temporaryFolder(t), "round.safetensors");
  const property = fc.asyncProperty(tensorList, fc.dictionary(fc.string(), fc.string()), async (list, metadata) => {
    const tensors = list.map(({ name, dtype, shape, fill }): TensorToWrite & { bytes: Buffer } => {
      const count = shape.reduce((product, size) => product * size, 1);
      const bytes = Buffer.alloc(count * dtypeBytes[dtype], fill);
      const copy = Uint8Array.from(bytes).buffer;
      const data = new arrays[dtype](copy);
      return { name, dtype, shape, bytes, data: fill[0]! % 2 === 0 ? data : async () => data };
    });
    await writeSafetensors(path, tensors, metadata);
    await using file = await SafetensorsFile.open(path);
    t.deepEqual(file.metadata, metadata);
    t.deepEqual([...file.tensors.keys()].sort(), tensors.map(({ name }) => name).sort());
    for (const { name, dtype, shape, bytes } of tensors) {
      const found = file.tensors.get(name);
      t.like(found, { dtype, shape, bytes: bytes.length });
      t.is(found!.offset % dtypeBytes[dtype], 0);
      t.true(bytes.equals(await file.read(name)));
    }
  });
  await fc.assert(property, { numRuns: 40 });
});

test("readFloat32 widens and narrows", async (t) => {
  const path = join(await temporaryFolder(t), "x.safetensors");
  await writeSafetensors(path, [
    { name: "a", dtype: "F32", shape: [2], data: Float32Array.of(1.5, -2) },
    { name: "b", dtype: "BF16", shape: [2], data: Uint16Array.of(0x3f80, 0xc000) },
    { name: "c", dtype: "F16", shape: [2], data: Uint16Array.of(0x3c00, 0xc000) },
    { name: "d", dtype: "F64", shape: [], data: Float64Array.of(0.1) },
    { name: "e", dtype: "I32", shape: [1], data: Int32Array.of(7) },
  ]);
  await using file = await SafetensorsFile.open(path);
  const read = async (name: string) => [...(await file.readFloat32(name))];
  t.deepEqual(await read("a"), [1.5, -2]);
  t.deepEqual(await read("b"), [1, -2]);
  t.deepEqual(await read("c"), [1, -2]);
  t.deepEqual(await read("d"), [Math.fround(0.1)]);
  await t.throwsAsync(read("e"), { code: "ERR_BAD_CHECKPOINT", message: /tensor "e": found dtype I32/ });
  await t.throwsAsync(read("f"), { code: "ERR_BAD_CHECKPOINT", message: /there is no tensor "f"/ });
});

test("header: truncated, oversized, not JSON, not an object", async (t) => {
  const folder = await temporaryFolder(t);
  await writeFile(join(folder, "short"), "1234567");
  await refused(t, join(folder, "short"), /7 bytes, too short/);
  await refused(t, folder, /not a regular file/);
  await refused(t, join(folder, "none"), /ENOENT/, "ERR_IO");
  await refused(t, await fileOf(t, "{}", 0, 16_000_001n), /claims 16000001 bytes, expected at most 16000000/);
  await refused(t, await fileOf(t, "{}", 0, 2n ** 64n - 1n), /claims 18446744073709551615 bytes/);
  await refused(t, await fileOf(t, "{}", 0, 15_999_999n), /only 2 follow: the file is cut short/);
  await refused(t, await fileOf(t, ""), /does not start with \{/);
  await refused(t, await fileOf(t, " {}"), /does not start with \{/);
  await refused(t, await fileOf(t, "{"), /not valid JSON/);
  await refused(t, await fileOf(t, '{"a":{},"a":{}}'), /the key "a" occurs twice/);
  await refused(t, await fileOf(t, { __metadata__: { a: 1 } }), /__metadata__: expected an object of strings/);
});

test("entries: malformed fields", async (t) => {
  const one = (value: unknown, dataBytes = 8) => fileOf(t, { w: value }, dataBytes);
  await refused(t, await one(7), /tensor "w": found 7, expected an object/);
  await refused(t, await one({ ...entry("F32", [2], 0, 8), extra: 1 }), /unknown key "extra"/);
  await refused(t, await one(entry("F33", [2], 0, 8)), /found dtype "F33", expected one of F64, F32/);
  await refused(t, await one(entry("F8_E4M3", [8], 0, 8)), /dtype F8_E4M3 is not read/, "ERR_UNSUPPORTED");
  for (const shape of [undefined, "2", [-1], [1.5], ["2"], [2 ** 53], new Array(17).fill(1)]) {
    await refused(t, await one(entry("F32", shape, 0, 8)), /shape must be at most 16 non-negative integers/);
  }
  await refused(t, await one(entry("F32", [2 ** 40, 2 ** 40], 0, 8)), /shape .* has too many elements/);
  for (const range of [undefined, [0], [0, 4, 8], [0, "8"], [-8, 0], [0, 8.5]]) {
    await refused(t, await one({ dtype: "F32", shape: [2], data_offsets: range }), /data_offsets must be two/);
  }
  await refused(t, await one(entry("F32", [2], 8, 0)), /data_offsets \[8, 0\] do not lie within/);
  await refused(t, await one(entry("F32", [3], 0, 12)), /\[0, 12\] do not lie within the file's 8 bytes/);
  await refused(t, await one(entry("F32", [3], 0, 8)), /span 8 bytes, but F32 of shape \[3\] takes 12/);
  for (const name of ["", "a\nb", "n".repeat(1025)]) {
    await refused(t, await fileOf(t, { [name]: entry("U8", [0], 0, 0) }), /tensor name .*expected 1 to 1024/);
  }
});

test("byte ranges: overlap, gap, tail, the same bytes twice", async (t) => {
  const two = (a: [number, number], b: [number, number]) =>
    fileOf(t, { a: entry("U8", [a[1] - a[0]], ...a), b: entry("U8", [b[1] - b[0]], ...b) }, 8);
  await refused(t, await two([0, 5], [4, 8]), /tensor "b" overlaps the tensor before it/);
  await refused(t, await two([0, 8], [0, 8]), /overlaps/);
  await refused(t, await two([0, 3], [4, 8]), /tensor "b" leaves a gap before it/);
  await refused(t, await two([1, 4], [4, 8]), /tensor "a" leaves a gap/);
  await refused(t, await two([0, 4], [4, 7]), /1 bytes after the last tensor belong to none/);
  await refused(t, await fileOf(t, {}, 3), /3 bytes after the last tensor/);
  const fine = await SafetensorsFile.open(await two([4, 8], [0, 4]));
  await fine.close();
});

test("names that objects know anyway are ordinary names", async (t) => {
  const header = `{"__proto__":${JSON.stringify(entry("U8", [1], 0, 1))},"toString":${JSON.stringify(entry("U8", [1], 1, 2))}}`;
  await using file = await SafetensorsFile.open(await fileOf(t, header, 2));
  t.deepEqual([...file.tensors.keys()], ["__proto__", "toString"]);
});

test("a file that shrinks after it was opened", async (t) => {
  const path = await fileOf(t, { w: entry("U8", [8], 0, 8) }, 8);
  await using file = await SafetensorsFile.open(path);
  await truncate(path, file.tensors.get("w")!.offset + 4);
  await t.throwsAsync(file.read("w"), { code: "ERR_IO", message: /the file ended at byte/ });
});

test("random damage to a good file is refused, or changes only names, values or metadata", async (t) => {
  const path = await fileOf(t, { w: entry("F32", [2], 0, 8), v: entry("U8", [3], 8, 11) }, 11);
  const good = await readFile(path);
  const property = fc.asyncProperty(fc.nat(good.length - 1), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
    const damaged = Buffer.from(good);
    damaged[at]! ^= flip;
    await writeFile(path, damaged);
    try {
      await using file = await SafetensorsFile.open(path);
      const total = [...file.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0);
      t.true(total <= 11);
    } catch (error) {
      t.regex((error as { code: string }).code, /^ERR_(BAD_CHECKPOINT|UNSUPPORTED)$/);
    }
  });
  await fc.assert(property, { numRuns: 200 });
});

test("the writer refuses what does not fit, and leaves nothing behind", async (t) => {
  const path = join(await temporaryFolder(t), "x.safetensors");
  const refusedWrite = async (tensors: TensorToWrite[], message: RegExp) => {
    await t.throwsAsync(writeSafetensors(path, tensors), { code: "ERR_INVALID_ARGUMENT", message });
    await t.throwsAsync(SafetensorsFile.open(path), { code: "ERR_IO" });
  };
  const data = Float32Array.of(1, 2);
  await refusedWrite(
    [{ name: "w", dtype: "F32", shape: [3], data }],
    /2 elements of 4 bytes, expected F32 of shape \[3\]/,
  );
  await refusedWrite([{ name: "w", dtype: "BF16", shape: [2], data }], /expected BF16/);
  const twice: TensorToWrite = { name: "w", dtype: "F32", shape: [2], data };
  await refusedWrite([twice, twice], /two tensors are named "w"/);
});
