/** Fresh weights: a function of the config and the seed alone. */

import type { MaskedConfig } from "../checkpoint/config.js";
import { layoutNamed } from "../checkpoint/registry.js";
import type { NativeTensor } from "../native/addon.js";
import { Rng, RngStream, type Seed, toUniform } from "../rng.js";

const STANDARD_DEVIATION = 0.02;

/**
 * Normal with standard deviation 0.02; what adds to the residual stream is scaled by 1 / sqrt(2 L), so that 2 L additions
 * leave its variance as it was; norms are 1.
 */
export function freshWeights(config: MaskedConfig, seed: Seed): Extract<NativeTensor, { data: Float32Array }>[] {
  const rng = new Rng(seed);
  return layoutNamed(config.layout)
    .tensors(config)
    .map(({ canonical: name, shape }, index) => {
      const size = shape.reduce((product, extent) => product * extent, 1);
      const data =
        shape.length === 1 ? new Float32Array(size).fill(1) : normals(rng, index, size, deviation(name, config));
      return { name, shape, dtype: "f32" as const, data };
    });
}

function deviation(name: string, config: MaskedConfig): number {
  const residual = name.endsWith(".o.weight") || name.endsWith(".down.weight");
  return residual ? STANDARD_DEVIATION / Math.sqrt(2 * config.numLayers) : STANDARD_DEVIATION;
}

/** Draws per refill of the scratch block: a multiple of 4 (one Philox block) that stays in the first-level cache. */
const BLOCK = 4096;

/** Box-Muller on pairs of uniforms: uniforms lie in (0, 1), so the logarithm is finite. */
function normals(rng: Rng, tensor: number, size: number, scale: number): Float32Array {
  const out = new Float32Array(size);
  const draws = new Uint32Array(BLOCK);
  for (let start = 0; start < size; start += BLOCK) {
    rng.fill(draws, { stream: RngStream.init, step: tensor, row: start / BLOCK });
    for (let i = 0; i < Math.min(BLOCK, size - start); i += 2) {
      const radius = scale * Math.sqrt(-2 * Math.log(toUniform(draws[i]!)));
      const angle = 2 * Math.PI * toUniform(draws[i + 1]!);
      out[start + i] = radius * Math.cos(angle);
      if (start + i + 1 < size) out[start + i + 1] = radius * Math.sin(angle);
    }
  }
  return out;
}
