/** Tiny checkpoints for tests. */

import type { MaskedConfig } from "../../../lib/checkpoint/config.js";
import { writeCheckpoint } from "../../../lib/checkpoint/folder.js";
import { llada } from "../../../lib/checkpoint/llada.js";

export const tinyConfig: MaskedConfig = {
  layout: "llada",
  vocabSize: 11,
  hiddenSize: 8,
  numLayers: 2,
  numHeads: 2,
  numKvHeads: 1,
  intermediateSize: 6,
  maxPositions: 16,
  ropeTheta: 10000,
  rmsNormEps: 1e-5,
  maskTokenId: 10,
  eosTokenId: 0,
  tiedEmbeddings: false,
};

/** Every tensor of the config, filled with 0, 1, 2, ... from a start of its own. */
export function countingTensors(config: MaskedConfig): Map<string, Float32Array> {
  return new Map(
    llada.tensors(config).map(({ canonical, shape }, i) => {
      const count = shape.reduce((product, size) => product * size, 1);
      return [canonical, Float32Array.from({ length: count }, (_, j) => i * 1000 + j)];
    }),
  );
}

export async function writeTiny(folder: string, config = tinyConfig): Promise<void> {
  await writeCheckpoint(folder, { config, tensors: countingTensors(config) });
}
