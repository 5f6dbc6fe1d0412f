/**
 * Indices of the `count` highest scores, highest first; equal scores keep their order, so ties go to the lowest index.
 * NaN ranks below everything.
 */
export function highest(scores: ArrayLike<number>, count: number): number[] {
  if (count <= FEW) return highestFew(scores, count);
  const order = Array.from({ length: scores.length }, (_, i) => i);
  order.sort((a, b) => rank(scores[b]!) - rank(scores[a]!) || a - b);
  return order.slice(0, count);
}

/** Where one reading of the scores is faster than sorting them all. Sequences of many positions take few per step, so often that it matters. */
const FEW = 32;

function highestFew(scores: ArrayLike<number>, count: number): number[] {
  const best: number[] = [];
  const ranks: number[] = [];
  for (let i = 0; i < scores.length; i++) {
    const own = rank(scores[i]!);
    if (best.length === count && !(own > ranks[count - 1]!)) continue;
    let place = Math.min(best.length, count - 1);
    for (; place > 0 && own > ranks[place - 1]!; place--) {
      best[place] = best[place - 1]!;
      ranks[place] = ranks[place - 1]!;
    }
    best[place] = i;
    ranks[place] = own;
  }
  return best;
}

/** Finite, so that the difference of two ranks is never NaN. */
function rank(score: number): number {
  return Number.isNaN(score) ? -Number.MAX_VALUE : Math.max(-1e300, Math.min(1e300, score));
}
