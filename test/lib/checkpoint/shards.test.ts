import { symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { writeSafetensors } from "../../../lib/checkpoint/safetensors.js";
import { readTensorTable } from "../../../lib/checkpoint/shards.js";
import { temporaryFolder } from "../temporary.js";

/** A folder with two shards, a.safetensors (tensors x, y) and b.safetensors (z), and this index. */
async function shards(t: ExecutionContext, index: unknown): Promise<string> {
  const folder = await temporaryFolder(t);
  const tensors = (names: string) =>
    [...names].map((name) => ({ name, dtype: "U8" as const, shape: [1], data: Uint8Array.of(1) }));
  await writeSafetensors(join(folder, "a.safetensors"), tensors("xy"));
  await writeSafetensors(join(folder, "b.safetensors"), tensors("z"));
  const text = typeof index === "string" ? index : JSON.stringify(index);
  await writeFile(join(folder, "model.safetensors.index.json"), text);
  return folder;
}

const good = { x: "a.safetensors", y: "a.safetensors", z: "b.safetensors" };

async function refused(t: ExecutionContext, index: unknown, message: RegExp) {
  await t.throwsAsync(readTensorTable(await shards(t, index)), { code: "ERR_BAD_CHECKPOINT", message });
}

test("shards are read through their index", async (t) => {
  const folder = await shards(t, { metadata: { total_size: 3 }, weight_map: good });
  const table = await readTensorTable(folder);
  t.deepEqual([...table.keys()].sort(), ["x", "y", "z"]);
  t.true(table.get("z")?.path.endsWith("b.safetensors"));
});

test("an index and shards that disagree", async (t) => {
  const map = (changes: Record<string, unknown>) => ({ weight_map: { ...good, ...changes } });
  await refused(t, map({ w: "b.safetensors" }), /b\.safetensors: lacks tensor "w"/);
  await refused(t, map({ y: undefined }), /a\.safetensors: holds tensor "y", which .* lists nowhere/);
  await refused(t, map({ z: "a.safetensors" }), /lacks tensor "z"/);
  await refused(t, map({ x: "b.safetensors" }), /(holds tensor "x", which .* lists in "b)|(lacks tensor "x")/);
  await refused(t, map({ w: "c.safetensors" }), /the shard "c\.safetensors" that it lists is missing/);
});

test("malformed indexes", async (t) => {
  await refused(t, "[]", /found an array, expected an object/);
  await refused(t, {}, /"weight_map": found nothing, expected an object/);
  await refused(t, { weight_map: { x: 7 } }, /tensor "x": found 7/);
  await refused(t, { weight_map: { x: "a.bin" } }, /tensor "x": found "a\.bin"/);
  await refused(t, '{"weight_map":{"x":"a.safetensors","x":"b.safetensors"}}', /the key "x" occurs twice/);
});

test("shards stay inside the folder", async (t) => {
  for (const name of [
    "../a.safetensors",
    "/elsewhere/a.safetensors",
    "sub/a.safetensors",
    "..\\a.safetensors",
    ".a.safetensors",
  ]) {
    await refused(t, { weight_map: { x: name } }, /not the plain name of a file in this folder/);
  }
  const outside = await shards(t, { weight_map: good });
  const folder = await shards(t, { weight_map: { ...good, z: "c.safetensors" } });
  await symlink(join(outside, "b.safetensors"), join(folder, "c.safetensors"));
  await t.throwsAsync(readTensorTable(folder), { code: "ERR_BAD_CHECKPOINT", message: /leads out of its folder/ });
});
