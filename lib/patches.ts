/** Tokens in patches: positions of `patchSize` tokens each, the gaps filled with ends of text. */

import type { FlowConfig } from "./checkpoint/config.js";

type Patches = Pick<FlowConfig, "patchSize" | "eosTokenId">;

/** What is missing to a whole number of patches. */
const gap = (tokens: number, { patchSize }: Patches): number => (patchSize - (tokens % patchSize)) % patchSize;

/** Filled in front: what comes before a text that goes on. */
export function filledBefore(ids: ArrayLike<number>, patches: Patches): number[] {
  return [...new Array<number>(gap(ids.length, patches)).fill(patches.eosTokenId ?? 0), ...Array.from(ids)];
}

/** Filled at the end. */
export function filledAfter(ids: ArrayLike<number>, patches: Patches): Int32Array {
  const filled = new Int32Array(ids.length + gap(ids.length, patches)).fill(patches.eosTokenId ?? 0);
  filled.set(Array.from(ids));
  return filled;
}
