/** What a thought model is, and whose a thought is: latents of one model say nothing to another, even of the same sizes. */

import { createHash } from "node:crypto";
import type { ThoughtConfig } from "../checkpoint/config.js";
import type { Checkpoint } from "../checkpoint/folder.js";
import { SafetensorsFile } from "../checkpoint/safetensors.js";
import type { LocatedTensor } from "../checkpoint/shards.js";
import { invalid } from "../decoding/options.js";

/** Every layer's first latents, N of all layers together: what tells a layer's latents apart has a row for each. */
export function withLatents(checkpoint: Checkpoint, latents: number): Checkpoint {
  const { config, folder, layout } = checkpoint;
  if (config.layout !== "noema-thought")
    throw invalid("latents", latents, `none: ${folder} is a ${layout.family} model`);
  const { numLayers, numLatents } = config;
  if (!Number.isInteger(latents) || latents % numLayers !== 0 || latents < 1 || latents > numLatents)
    throw invalid("latents", latents, `a multiple of the ${numLayers} layers, at most the checkpoint's ${numLatents}`);
  const first = ([name, tensor]: [string, LocatedTensor]): [string, LocatedTensor] => {
    if (!name.endsWith("latent_embedding.weight")) return [name, tensor];
    const [, width] = tensor.shape;
    return [name, { ...tensor, shape: [latents / numLayers, width!], bytes: (tensor.bytes / numLatents) * latents }];
  };
  return {
    ...checkpoint,
    config: { ...config, numLatents: latents },
    tensors: new Map(Array.from(checkpoint.tensors, first)),
  };
}

/** Of the config and of weights that every training step changes and that are read quickly: the norms'. */
export async function fingerprintOf({ config, tensors }: Checkpoint<ThoughtConfig>): Promise<string> {
  // How thoughts are fitted by default is no part of what they mean.
  const { inference: _, ...sizes } = config;
  const hash = createHash("sha256").update(JSON.stringify(sizes));
  for (const [name, { path, name: stored }] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (!name.endsWith("norm.weight")) continue;
    await using file = await SafetensorsFile.open(path);
    hash.update(name).update(await file.read(stored));
  }
  return hash.digest("hex");
}
