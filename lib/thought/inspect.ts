/** Looking into a thought: what its vectors cost, how its fit went, what the text costs by how many layers read it. */

import { sum } from "../evaluation/bound.js";
import type { NativeCancellation } from "../native/addon.js";
import type { ThoughtCore } from "../posterior/core.js";
import { textBatch } from "../posterior/infer.js";
import type { FitCurve, Thought } from "../posterior/thought.js";

export interface ThoughtInspection {
  thought: Thought;
  tokens: number;
  /** L times M: KL divergence from the prior of every vector, in nats. */
  kl: number[][];
  /** Of the fit, step by step, in nats. */
  curve: FitCurve;
  /** L + 1 numbers: the text's cross-entropy in nats per token when the first l layers read the draw, and the others zeros, the prior's mean. */
  byLayers: number[];
}

export async function look(
  host: ThoughtCore,
  text: ArrayLike<number>,
  { thought, cancellation }: { thought: Thought; cancellation: NativeCancellation },
): Promise<ThoughtInspection> {
  const { native, config } = host;
  const { numLayers: L } = config;
  const per = config.numLatents / L;
  const { klPerVector } = thought;
  const byLayers: number[] = [];
  for (let layers = 0; layers <= L; layers++) {
    const z = withLayers(host, thought.z, (layer) => layer < layers);
    const losses = await native.losses({ ...textBatch([text], config.bosTokenId), z, cancellation });
    byLayers.push(sum(losses) / text.length);
  }
  const kl = Array.from({ length: L }, (_, layer) => Array.from(klPerVector.subarray(layer * per, (layer + 1) * per)));
  return { thought, tokens: text.length, kl, curve: thought.curve, byLayers };
}

/** The draw as layers see it that are on; the others see zeros. */
export function withLayers(
  { config, sizes }: Pick<ThoughtCore, "config" | "sizes">,
  z: Float32Array,
  isOn: (layer: number) => boolean,
): Float32Array {
  const size = (sizes.latents / config.numLayers) * sizes.width;
  return z.map((value, i) => (isOn(Math.floor(i / size)) ? value : 0));
}
