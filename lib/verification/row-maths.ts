/** The arithmetic of masked-diffusion decoding on single rows, in double precision. */

import type { ConvolutionalDraw } from "../native/addon.js";

export function logSumExp(logits: ArrayLike<number>): number {
  let max = Number.NEGATIVE_INFINITY;
  for (let v = 0; v < logits.length; v++) max = Math.max(max, logits[v]!);
  if (max === Number.NEGATIVE_INFINITY) return max;
  let sum = 0;
  for (let v = 0; v < logits.length; v++) sum += Math.exp(logits[v]! - max);
  return max + Math.log(sum);
}

export function softmax(logits: ArrayLike<number>): Float64Array {
  const lse = logSumExp(logits);
  return Float64Array.from(logits, (logit) => Math.exp(logit - lse));
}

type Window = Pick<ConvolutionalDraw, "kernel" | "multiplier" | "shape">;

const shapes = {
  tanh: Math.tanh,
  linear: (x: number): number => Math.min(x, 1),
  exponential: (x: number): number => 1 - Math.exp(-x),
} as const;

/** u_i, the unmasked positions among the `kernel` centred on i, and s_i = g(multiplier u_i). */
export function factors(masked: readonly boolean[], window: Window): { count: Float64Array; s: Float64Array } {
  const reach = (window.kernel - 1) / 2;
  const count = Float64Array.from(masked, (_, at) => {
    let unmasked = 0;
    const end = Math.min(masked.length - 1, at + reach);
    for (let i = Math.max(0, at - reach); i <= end; i++) if (!masked[i]) unmasked++;
    return unmasked;
  });
  return { count, s: count.map((u) => shapes[window.shape](u * window.multiplier)) };
}

/** argmax_j weight_j / (1e-10 - log(u_j + 1e-10))^temperature; ties go to the lowest j. */
export function drawIndex(weights: ArrayLike<number>, uniform: (j: number) => number, temperature: number): number {
  let best = 0;
  let bestKey = Number.NEGATIVE_INFINITY;
  for (let j = 0; j < weights.length; j++) {
    const noise = temperature === 0 ? 1 : (1e-10 - Math.log(uniform(j) + 1e-10)) ** temperature;
    const key = weights[j]! / noise;
    if (key > bestKey) {
      best = j;
      bestKey = key;
    }
  }
  return best;
}
