/** Looking into a thought: what its vectors cost, how its fit went, what the text costs by how many layers read it, and who reads what. */

import { sum } from "../evaluation/bound.js";
import { textBatch } from "../evaluation/likelihood.js";
import type { NativeCancellation } from "../native/addon.js";
import type { ThoughtCore } from "../posterior/core.js";
import type { FitCurve, Thought } from "../posterior/thought.js";

/** What there is of a text in the layers that read its thought. */
export interface LayerReading {
  /** Nats per token, every token predicted from those before it. */
  crossEntropy: number;
  /** Share of the tokens that were then the likeliest. */
  accuracy: number;
  /** Share of the tokens that stand in their places when the text is written greedily from its start, by the draw alone. */
  rebuilt: number;
}

export interface ThoughtInspection {
  thought: Thought;
  /** The text's. */
  ids: Int32Array;
  tokens: number;
  /** L times M: KL divergence from the prior of every vector, in nats. */
  kl: number[][];
  /** Of the fit, step by step, in nats. */
  curve: FitCurve;
  /** L + 1: when the first l layers read the draw, and the others zeros, the prior's mean (ltm.md section 4.5, layer probing). */
  byLayers: LayerReading[];
  /**
   * L times [T][M]: what the position that predicts a token weighs the vectors of a layer by, mean over the heads, when all layers read
   * the draw. The M weights of a token sum to 1.
   */
  attention: number[][][];
}

export async function look(
  host: ThoughtCore,
  text: ArrayLike<number>,
  { thought, cancellation }: { thought: Thought; cancellation: NativeCancellation },
): Promise<ThoughtInspection> {
  const { native, config } = host;
  const { numLayers: L, bosTokenId } = config;
  const per = config.numLatents / L;
  const { klPerVector, z } = thought;
  const { targets, ...batch } = { ...textBatch([{ ids: text }], bosTokenId), cancellation };
  const partial = Array.from({ length: L + 1 }, (_, layers) => withLayers(host, z, (layer) => layer < layers));
  const written = await writtenBy(host, partial, { tokens: text.length, cancellation });
  const byLayers: LayerReading[] = [];
  for (let layers = 0; layers <= L; layers++) {
    const read = { ...batch, z: partial[layers]! };
    const losses = await native.losses({ ...read, targets });
    const { likeliest } = await native.forward({ ...read, likeliest: true });
    const inPlace = (ids: ArrayLike<number>) => targets.filter((id, i) => id === ids[i]).length / text.length;
    byLayers.push({
      crossEntropy: sum(losses) / text.length,
      accuracy: inPlace(likeliest!),
      rebuilt: inPlace(written[layers]!),
    });
  }
  const { attention } = await native.forward({ ...batch, z, attention: true });
  return {
    ...{ thought, ids: targets, tokens: text.length, curve: thought.curve, byLayers },
    kl: Array.from({ length: L }, (_, layer) => Array.from(klPerVector.subarray(layer * per, (layer + 1) * per))),
    attention: attention!.map((weights) => meanOverHeads(weights, text.length, per)),
  };
}

/** The likeliest texts from their start on, one for each of the draws. */
async function writtenBy(
  { native, config }: ThoughtCore,
  draws: readonly Float32Array[],
  { tokens, cancellation }: { tokens: number; cancellation: NativeCancellation },
): Promise<Int32Array[]> {
  const batch = draws.length;
  const size = draws[0]!.length;
  const z = new Float32Array(batch * size);
  for (const [b, draw] of draws.entries()) z.set(draw, b * size);
  const start = { ids: new Int32Array(batch).fill(config.bosTokenId), batch, length: 1 };
  const greedy = { temperature: 0, topK: 0, topP: 1, endId: -1, seeds: new BigUint64Array(batch) };
  return (await native.continue({ ...start, z, tokens, ...greedy, cancellation })).tokens;
}

/** [T,H,M] as [T][M]. */
function meanOverHeads(weights: Float32Array, T: number, M: number): number[][] {
  const H = weights.length / (T * M);
  return Array.from({ length: T }, (_, t) =>
    Array.from({ length: M }, (_, m) => {
      let total = 0;
      for (let h = 0; h < H; h++) total += weights[(t * H + h) * M + m]!;
      return total / H;
    }),
  );
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
