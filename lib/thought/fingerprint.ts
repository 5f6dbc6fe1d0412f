/** Whose a thought is: latents of one model say nothing to another, even of the same sizes. */

import { createHash } from "node:crypto";
import type { ThoughtConfig } from "../checkpoint/config.js";
import type { Checkpoint } from "../checkpoint/folder.js";
import { SafetensorsFile } from "../checkpoint/safetensors.js";

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
