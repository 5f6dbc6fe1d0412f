/** Standard normal draws, a function of their place like all random numbers here. */

import { Rng, type RngPlace, RngStream, type Seed, toUniform } from "./rng.js";

/** Draws per refill of the scratch block: a multiple of 4 (one Philox block) that stays in the first-level cache. */
const BLOCK = 4096;

/**
 * Fills the array with normal draws times `scale`: Box-Muller on pairs of uniforms, which lie in (0, 1), so the logarithm is finite.
 * Every 4096 draws are a row of their own, counted from `place.row`.
 */
export function fillNormals(rng: Rng, place: RngPlace, out: Float32Array, scale = 1): Float32Array {
  const draws = new Uint32Array(BLOCK);
  for (let start = 0; start < out.length; start += BLOCK) {
    rng.fill(draws, { ...place, row: (place.row ?? 0) + start / BLOCK });
    for (let i = 0; i < Math.min(BLOCK, out.length - start); i += 2) {
      const radius = scale * Math.sqrt(-2 * Math.log(toUniform(draws[i]!)));
      const angle = 2 * Math.PI * toUniform(draws[i + 1]!);
      out[start + i] = radius * Math.cos(angle);
      if (start + i + 1 < out.length) out[start + i + 1] = radius * Math.sin(angle);
    }
  }
  return out;
}

/** Noise for a text's latents: a function of seed, token and channel, so a longer text starts with the same. */
export function latentNoise(seed: Seed, values: number, scale = 1): Float32Array {
  return fillNormals(new Rng(seed), { stream: RngStream.latent }, new Float32Array(values), scale);
}
