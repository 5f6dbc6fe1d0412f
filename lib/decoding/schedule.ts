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

/** The time at which step `i` of `of` begins, of times from 1 to epsilon in equal steps. */
export function timeAt(i: number, of: number, epsilon: number): number {
  return 1 - ((1 - epsilon) * i) / of;
}

/** Dream's number of tokens for step `i`: of what is masked, the share 1 - s/t from time t to s < t; all that is left in the last step. */
export function timeShareAt(left: number, steps: number, i: number): number {
  if (i >= steps - 1) return left;
  return Math.floor(left * (1 - timeAt(i + 1, steps, EPSILON) / timeAt(i, steps, EPSILON)));
}

/** The time of the last step in the published code. */
const EPSILON = 1e-3;

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
