/** A checkpoint with random weights, small enough to run at once on the real addon, written in a folder of its own. */

import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { MaskedConfig } from "../../lib/checkpoint/config.js";
import { writeCheckpoint } from "../../lib/checkpoint/folder.js";
import { layoutNamed } from "../../lib/checkpoint/registry.js";
import { Rng, RngStream, toUniform } from "../../lib/rng.js";
import { tokenizerPath } from "./fake-addon.js";

export const smallConfig: MaskedConfig = {
  layout: "llada",
  vocabSize: 4096,
  hiddenSize: 64,
  numLayers: 2,
  numHeads: 4,
  numKvHeads: 2,
  intermediateSize: 96,
  maxPositions: 512,
  ropeTheta: 10000,
  rmsNormEps: 1e-5,
  maskTokenId: 1,
  eosTokenId: 0,
  padTokenId: 2,
  tiedEmbeddings: true,
};

/** Uniform values around 0 (matrices) or 1 (norms). */
export function smallWeights(shape: readonly number[], row: number): Float32Array {
  const bits = new Uint32Array(shape.reduce((product, n) => product * n, 1));
  new Rng(11).fill(bits, { stream: RngStream.init, row });
  const center = shape.length === 1 ? 1 : 0;
  return Float32Array.from(bits, (word) => center + 0.4 * (toUniform(word) - 0.5));
}

export async function writeSmallModel(): Promise<string> {
  const folder = join(await mkdtemp(join(tmpdir(), "noema-small-")), "model");
  const specs = layoutNamed("llada").tensors(smallConfig);
  const tensors = new Map(specs.map(({ canonical, shape }, row) => [canonical, smallWeights(shape, row)]));
  await writeCheckpoint(folder, { config: smallConfig, tensors, tokenizer: tokenizerPath });
  return folder;
}
