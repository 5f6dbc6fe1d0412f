/** A golden folder made here: what the reference computes of a checkpoint, forward and backward, for other backends to meet. */

import { cp, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { MaskedConfig } from "../../lib/checkpoint/config.js";
import { layoutNamed } from "../../lib/checkpoint/registry.js";
import { writeSafetensors } from "../../lib/checkpoint/safetensors.js";
import { createEngine } from "../../lib/index.js";
import type { NativeMaskedModel } from "../../lib/native/addon.js";
import { Rng, RngStream, toUniform } from "../../lib/rng.js";

const B = 2;
const T = 9;

interface Named {
  name: string;
  shape: readonly number[];
  data: Float32Array | Int32Array | Uint8Array;
}

/** Wider than a backend's own error, far narrower than a wrong sum. */
const tolerance = {
  "*": "abs 2e-4",
  "train.loss": "rel 1e-4",
  "train.token_loss": "rel 1e-4 + abs 1e-4",
  "grad.*": "rel L2 per tensor 1e-3, abs 1e-3*max|grad| + 1e-6",
};

/** Fills `folder` with a copy of the checkpoint and the reference's arrays. */
export async function writeGolden(checkpoint: string, folder: string): Promise<void> {
  await mkdir(folder);
  for (const name of ["config.json", "model.safetensors"]) await cp(join(checkpoint, name), join(folder, name));
  await using engine = await createEngine({ backend: "reference" });
  await using model = await engine.load(checkpoint, { family: "masked" });
  const arrays = [
    ...(await forwardArrays(model.native, model.config)),
    ...(await trainArrays(model.native, model.config)),
  ];
  await writeFile(join(folder, "expected.json"), JSON.stringify({ tolerance_f32: tolerance }));
  await writeSafetensors(
    join(folder, "expected.safetensors"),
    arrays.map(({ name, shape, data }) => {
      const dtype = data instanceof Float32Array ? "F32" : data instanceof Int32Array ? "I32" : "U8";
      return { name, dtype, shape: [...shape], data: async () => data };
    }),
  );
}

function uniforms(row: number, count: number): Float32Array {
  const bits = new Uint32Array(count);
  new Rng(3).fill(bits, { stream: RngStream.init, row });
  return Float32Array.from(bits, toUniform);
}

const idsBelow = (row: number, limit: number): Int32Array =>
  Int32Array.from(uniforms(row, B * T), (u) => Math.floor(u * limit));

/** Two sequences, the second padded at both ends. */
async function forwardArrays(native: NativeMaskedModel, config: MaskedConfig): Promise<Named[]> {
  const ids = idsBelow(0, config.vocabSize);
  const mask = Int32Array.from(ids, (_, row) => (row < T || (row >= T + 1 && row < 2 * T - 2) ? 1 : 0));
  const ranges = { keyStart: Int32Array.of(0, 1), keyEnd: Int32Array.of(T, T - 2) };
  const { logits, hidden } = await native.forward({ ids, batch: B, length: T, ...ranges, logits: true, hidden: true });
  const names = ["embed", ...Array.from({ length: config.numLayers }, (_, i) => `block.${i}`), "final_norm"];
  return [
    { name: "input_ids", shape: [B, T], data: ids },
    { name: "attention_mask", shape: [B, T], data: mask },
    { name: "logits", shape: [B, T, config.vocabSize], data: logits! },
    ...names.map((name, i) => ({ name: `hidden.${name}`, shape: [B, T, config.hiddenSize], data: hidden![i]! })),
  ];
}

async function trainArrays(native: NativeMaskedModel, config: MaskedConfig): Promise<Named[]> {
  const clean = idsBelow(1, config.vocabSize);
  const time = Float32Array.of(0.4, 0.9);
  const draws = uniforms(2, B * T);
  const chance = Float32Array.from(draws, (_, i) => Math.fround(Math.fround((1 - 1e-3) * time[i < T ? 0 : 1]!) + 1e-3));
  const masked = Uint8Array.from(draws, (u, i) => (u < chance[i]! ? 1 : 0));
  const noisy = clean.map((id, i) => (masked[i] ? config.maskTokenId : id));
  const targets = clean.map((id, i) => (masked[i] ? id : -1));
  const weights = Float32Array.from(targets, (id, i) => (id < 0 ? 0 : 1 / (chance[i]! * B * T)));
  const trainer = await native.trainer({ keepAverage: false });
  const { lossSum, tokenLoss } = await trainer.accumulate({
    ...{ ids: noisy, batch: B, length: T, targets, weights, excludedId: -1 },
  });
  const losses = [...targets].flatMap((id, i) => (id < 0 ? [] : [tokenLoss[i]! / chance[i]!]));
  const layout = layoutNamed(config.layout);
  const gradients = layout.tensors(config).map(async ({ name, canonical, shape }) => {
    return { name: `grad.${layout.prefixes[0]}${name}`, shape, data: await trainer.read("gradient", canonical) };
  });
  const arrays = await Promise.all(gradients);
  trainer.dispose();
  return [
    { name: "train.x0", shape: [B, T], data: clean },
    { name: "train.u_t", shape: [B], data: time },
    { name: "train.u_mask", shape: [B, T], data: draws },
    { name: "train.p_mask", shape: [B, T], data: chance },
    { name: "train.masked", shape: [B, T], data: masked },
    { name: "train.noisy", shape: [B, T], data: noisy },
    { name: "train.loss", shape: [1], data: Float32Array.of(lossSum) },
    { name: "train.token_loss", shape: [losses.length], data: Float32Array.from(losses) },
    ...arrays,
  ];
}
