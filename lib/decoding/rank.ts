/**
 * Indices of the `count` highest scores, highest first; equal scores keep their order, so ties go to the lowest index.
 * NaN ranks below everything.
 */
export function highest(scores: ArrayLike<number>, count: number): number[] {
  const order = Array.from({ length: scores.length }, (_, i) => i);
  order.sort((a, b) => rank(scores[b]!) - rank(scores[a]!) || a - b);
  return order.slice(0, count);
}

/** Finite, so that the difference of two ranks is never NaN. */
function rank(score: number): number {
  return Number.isNaN(score) ? -Number.MAX_VALUE : Math.max(-1e300, Math.min(1e300, score));
}
