/** When how many positions are unmasked: blocks from left to right, steps shared out over them. */

import { invalid } from "./options.js";
import type { DecodingSettings } from "./resolve.js";

export interface Block {
  /** Positions below this may be unmasked while the block runs. */
  readonly end: number;
  /** Masked positions, and the steps that they are shared out over (of no meaning to adaptive policies). */
  readonly size: number;
  readonly steps: number;
}

/** Part `i` of `total` in `parts` nearly equal numbers; the remainder goes to the first ones. */
export function shareAt(total: number, parts: number, i: number): number {
  const base = Math.floor(total / parts);
  return base + (i < total - base * parts ? 1 : 0);
}

export function share(total: number, parts: number): number[] {
  return Array.from({ length: parts }, (_, i) => shareAt(total, parts, i));
}

/** Blocks of `blockLength` positions, counted from the first masked one; blocks without masked positions are left out. */
export function blocksOf(masked: readonly number[], settings: DecodingSettings): Block[] {
  const first = masked[0] ?? 0;
  const length = settings.blockLength ?? Number.POSITIVE_INFINITY;
  const sizes = new Map<number, number>();
  for (const at of masked) {
    const block = Math.floor((at - first) / length);
    sizes.set(block, (sizes.get(block) ?? 0) + 1);
  }
  const steps = stepsOf([...sizes.values()], settings);
  return [...sizes].map(([block, size], i) => ({ end: endOf(first, block, length), size, steps: steps[i]! }));
}

function endOf(first: number, block: number, length: number): number {
  return length === Number.POSITIVE_INFINITY ? length : first + (block + 1) * length;
}

function stepsOf(sizes: readonly number[], settings: DecodingSettings): number[] {
  const { steps, tokensPerStep = 1 } = settings;
  if (steps === undefined) return sizes.map((size) => Math.ceil(size / tokensPerStep));
  if (steps < sizes.length) {
    throw invalid("decoding.steps", steps, `at least one step for each of the ${sizes.length} blocks`);
  }
  return share(steps, sizes.length);
}
