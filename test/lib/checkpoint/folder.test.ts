import { chmod, mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { openCheckpoint, type WeightSource, writeCheckpoint } from "../../../lib/checkpoint/folder.js";
import { llada } from "../../../lib/checkpoint/llada.js";
import { SafetensorsFile, type TensorToWrite, writeSafetensors } from "../../../lib/checkpoint/safetensors.js";
import { asOrdinaryUser, temporaryFolder } from "../temporary.js";
import { countingTensors, tinyConfig, writeTiny } from "./fixtures.js";

/** A tiny checkpoint whose weights file is replaced by what `change` makes of its tensors. */
async function changed(
  t: ExecutionContext,
  change: (tensors: TensorToWrite[]) => TensorToWrite[],
  config = tinyConfig,
) {
  const folder = join(await temporaryFolder(t), "model");
  await writeTiny(folder, config);
  const data = countingTensors(config);
  const tensors = llada.tensors(config).map(({ name, canonical, shape }): TensorToWrite => {
    return { name: `model.transformer.${name}`, dtype: "F32", shape, data: data.get(canonical)! };
  });
  await writeSafetensors(join(folder, "model.safetensors"), change(tensors));
  return folder;
}

async function refused(t: ExecutionContext, folder: string, message: RegExp, code = "ERR_BAD_CHECKPOINT") {
  await t.throwsAsync(openCheckpoint(folder), { code, message });
}

const scalar: TensorToWrite = { name: "x", dtype: "F32", shape: [1], data: Float32Array.of(1) };

test.serial("a read-only folder: ERR_IO, and the old checkpoint is untouched", async (t) => {
  const folder = join(await temporaryFolder(t), "model");
  await writeTiny(folder);
  const before = await readFile(join(folder, "model.safetensors"));
  await chmod(folder, 0o555);
  const ran = await asOrdinaryUser(async () => {
    await t.throwsAsync(writeTiny(folder), { code: "ERR_IO", message: /model: writing the checkpoint failed: EACCES/ });
    await t.throwsAsync(writeTiny(join(folder, "new")), { code: "ERR_IO" });
  });
  if (!ran) t.log("skipped: permissions do not bind this user");
  await chmod(folder, 0o755);
  t.true(before.equals(await readFile(join(folder, "model.safetensors"))));
});

test("what was written is opened again, tensor by tensor", async (t) => {
  for (const config of [tinyConfig, { ...tinyConfig, tiedEmbeddings: true, padTokenId: 3 }]) {
    const parent = await temporaryFolder(t);
    const folder = join(parent, "deep", "model");
    await writeFile(join(parent, "letters.json"), "{}");
    const tensors = countingTensors(config);
    await writeCheckpoint(folder, { config, tensors, tokenizer: join(parent, "letters.json") });
    const checkpoint = await openCheckpoint(folder);
    t.deepEqual(checkpoint.config, config);
    t.is(checkpoint.layout, llada);
    t.true(checkpoint.tokenizer?.endsWith("tokenizer.json"));
    t.is(checkpoint.raw.model_type, "llada");
    t.deepEqual([...checkpoint.tensors.keys()].sort(), [...tensors.keys()].sort());
    for (const [canonical, { path, name, dtype }] of checkpoint.tensors) {
      await using file = await SafetensorsFile.open(path);
      t.is(dtype, "F32");
      t.deepEqual(await file.readFloat32(name), tensors.get(canonical));
    }
    t.deepEqual((await readdir(folder)).sort(), ["config.json", "model.safetensors", "tokenizer.json"]);
    t.deepEqual(await readdir(join(parent, "deep")), ["model"]);
  }
});

test("bf16: values are rounded, bits pass through, and lazily made tensors work", async (t) => {
  const folder = join(await temporaryFolder(t), "model");
  const tensors = countingTensors(tinyConfig);
  const first = new Uint16Array(tinyConfig.vocabSize * tinyConfig.hiddenSize).fill(0x3f80);
  const sources = new Map<string, WeightSource>([...tensors].map(([name, data]) => [name, async () => data]));
  sources.set("embed.weight", first);
  await writeCheckpoint(folder, { config: tinyConfig, dtype: "BF16", tensors: sources });
  const { tensors: found } = await openCheckpoint(folder);
  t.is(found.get("head.weight")?.dtype, "BF16");
  await using file = await SafetensorsFile.open(found.get("embed.weight")!.path);
  t.true((await file.readFloat32(found.get("embed.weight")!.name)).every((value) => value === 1));
});

test("the writer refuses missing, unknown, mis-sized and mistyped tensors, and absurd configs", async (t) => {
  const folder = join(await temporaryFolder(t), "model");
  const attempt = async (change: (tensors: Map<string, Float32Array | Uint16Array>) => void, message: RegExp) => {
    const tensors = new Map<string, Float32Array | Uint16Array>(countingTensors(tinyConfig));
    change(tensors);
    await t.throwsAsync(writeCheckpoint(folder, { config: tinyConfig, tensors }), {
      code: "ERR_INVALID_ARGUMENT",
      message,
    });
    t.deepEqual(await readdir(join(folder, "..")), []);
  };
  await attempt((tensors) => tensors.delete("norm.weight"), /tensor "norm\.weight" is missing/);
  await attempt((tensors) => tensors.set("extra", new Float32Array(1)), /tensor "extra": this config has none/);
  await attempt((tensors) => tensors.set("norm.weight", new Float32Array(9)), /ln_f\.weight": 9 elements .* \[8\]/);
  await attempt((tensors) => tensors.set("norm.weight", new Uint16Array(8)), /8 elements of 2 bytes, expected F32/);
  const config = { ...tinyConfig, numHeads: 3 };
  const absurd = writeCheckpoint(folder, { config, tensors: countingTensors(tinyConfig) });
  await t.throwsAsync(absurd, { code: "ERR_BAD_CHECKPOINT", message: /"n_heads": found 3/ });
});

test("a failing tensor leaves the old checkpoint, and a new config replaces the old one", async (t) => {
  const folder = join(await temporaryFolder(t), "model");
  await writeTiny(folder);
  const full = async () =>
    Promise.reject(Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" }));
  const tensors = new Map<string, WeightSource>(countingTensors(tinyConfig)).set("norm.weight", full);
  await t.throwsAsync(writeCheckpoint(folder, { config: tinyConfig, tensors }), { code: "ERR_IO", message: /ENOSPC/ });
  await t.notThrowsAsync(openCheckpoint(folder));
  const bigger = { ...tinyConfig, vocabSize: 13 };
  await writeTiny(folder, bigger);
  t.deepEqual((await openCheckpoint(folder)).config, bigger);
  t.deepEqual((await readdir(folder)).sort(), ["config.json", "model.safetensors"]);
});

test("prefixes of other writers, and buffers, are accepted", async (t) => {
  for (const prefix of ["transformer.", ""]) {
    const rename = (tensors: TensorToWrite[]) =>
      tensors.map((tensor) => ({ ...tensor, name: tensor.name.replace("model.transformer.", prefix) }));
    t.is((await openCheckpoint(await changed(t, rename))).tensors.size, 21);
  }
  const buffer = { ...scalar, name: "model.transformer.blocks.0.rotary_emb.inv_freq" };
  t.is((await openCheckpoint(await changed(t, (tensors) => [...tensors, buffer]))).tensors.size, 21);
});

test("missing, extra, mis-shaped and mistyped tensors are named with found and expected", async (t) => {
  const without = await changed(t, (tensors) => tensors.filter(({ name }) => !name.endsWith("blocks.1.k_proj.weight")));
  await refused(t, without, /tensor "model\.transformer\.blocks\.1\.k_proj\.weight" of shape \[4,8\] is missing/);
  const empty = await changed(t, () => []);
  await refused(t, empty, /tensor "model\.transformer\.wte\.weight" of shape \[11,8\] is missing/);
  const extra = await changed(t, (tensors) => [
    ...tensors,
    { ...scalar, name: "model.transformer.blocks.2.attn_norm.weight" },
  ]);
  await refused(t, extra, /found tensor ".*blocks\.2\.attn_norm\.weight" of shape \[1\], expected none/);
  const tied = { ...tinyConfig, tiedEmbeddings: true };
  const head: TensorToWrite = {
    ...scalar,
    name: "model.transformer.ff_out.weight",
    shape: [11, 8],
    data: new Float32Array(88),
  };
  await refused(t, await changed(t, (tensors) => [...tensors, head], tied), /found tensor ".*\.ff_out\.weight"/);
  const reshaped = await changed(t, (tensors) =>
    tensors.map((tensor) => (tensor.name.endsWith("wte.weight") ? { ...tensor, shape: [8, 11] } : tensor)),
  );
  await refused(t, reshaped, /"model\.transformer\.wte\.weight": found shape \[8,11\], expected \[11,8\]/);
  const integers = await changed(t, (tensors) =>
    tensors.map((tensor) =>
      tensor.name.endsWith("ln_f.weight") ? { ...tensor, dtype: "I32", data: new Int32Array(8) } : tensor,
    ),
  );
  await refused(t, integers, /"model\.transformer\.ln_f\.weight": found dtype I32, expected F32, BF16, F16/);
});

test("folders that are no checkpoints", async (t) => {
  const folder = await temporaryFolder(t);
  await refused(t, join(folder, "none"), /there is no such folder/, "ERR_IO");
  await refused(t, folder, /config\.json is missing: not a checkpoint folder/);
  await writeFile(join(folder, "config.json"), JSON.stringify(llada.config(tinyConfig)));
  await refused(t, folder, /neither model\.safetensors nor model\.safetensors\.index\.json is here/);
  await refused(t, join(folder, "config.json"), /config\.json is missing/);
  await mkdir(join(folder, "model.safetensors"));
  await refused(t, folder, /not a regular file/);
});

test("links out of the folder are refused", async (t) => {
  const parent = await temporaryFolder(t);
  const folder = join(parent, "model");
  await writeTiny(folder);
  await writeTiny(join(parent, "other"));
  for (const name of ["model.safetensors", "config.json"]) {
    const kept = await readFile(join(folder, name));
    await rm(join(folder, name));
    await symlink(join(parent, "other", name), join(folder, name));
    await refused(t, folder, /a link that leads out of its folder/);
    await rm(join(folder, name));
    await writeFile(join(folder, name), kept);
  }
  await symlink(join(parent, "other", "config.json"), join(folder, "tokenizer.json"));
  await refused(t, folder, /a link that leads out/, "ERR_BAD_TOKENIZER");
});
