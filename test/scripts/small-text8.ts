// text8 in miniature.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Rng } from "../../lib/rng.js";
import type { Setup } from "../../scripts/text8-configurations.js";
import { prepare } from "../../scripts/text8-flags.js";
import { sharedFolder } from "../lib/temporary.js";

export const small: Setup = {
  ...{ data: "data", runs: "runs", tokens: 4096, width: 8, heads: 1, layers: [1, 1, 1], length: 16, batch: 8 },
  ...{ rate: 0.01, seed: 1, windows: 3 },
};

/** Letters and spaces, of which some are likelier than others. */
function text(seed: number, length: number): string {
  const rng = new Rng(seed);
  return Array.from(
    { length },
    (_, i) => " abcdefghijklmnopqrstuvwxyz"[Math.floor(27 * rng.uniform(0, 0, 0, i) ** 2)],
  ).join("");
}

/** A setup of three steps, with texts on disk and all that runs need. */
export async function miniature(setup: Setup): Promise<Setup> {
  const folder = sharedFolder();
  const own = { ...setup, data: join(folder, "data"), runs: join(folder, "runs"), tokens: 3 * 128 };
  await mkdir(own.data, { recursive: true });
  for (const [seed, name] of ["train", "valid", "test"].entries())
    await writeFile(join(own.data, `${name}.txt`), text(seed, 400));
  await prepare(own);
  return own;
}
