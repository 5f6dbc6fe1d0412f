/**
 * Rejective rule-based fine-tuning (R2FT, masked-diffusion.md section 4): what is hidden of a text, and the loser that a rule writes in its
 * place, a phrase of the text beside it over and over, as models of few steps do of themselves. Every rule is a pure function of a text and
 * its draws.
 */

/** An integer from `low` to below `high`. */
export type DrawInteger = (low: number, high: number) => number;

export interface Cut {
  /** Whether what lies between the boundaries is hidden, or what lies outside. */
  readonly inside: boolean;
  /** The boundaries, [left, right). */
  readonly left: number;
  readonly right: number;
}

/** One text of a batch. */
export interface Rejected {
  /** With the mask token where hidden. */
  readonly ids: Int32Array;
  /** Hidden tokens, -1 elsewhere. */
  readonly winners: Int32Array;
  /** The rule's tokens where hidden, -1 elsewhere and at both ends of the text. */
  readonly losers: Int32Array;
  readonly hidden: number;
}

/** Boundaries stay away from the ends by as much. */
const EDGE = 5;
/** The shortest text that two different boundaries fit into. */
export const SHORTEST_REJECTED = 2 * EDGE + 2;

/** Two different boundaries, and which side of them is hidden. */
export function drawCut(length: number, draw: DrawInteger): Cut {
  const inside = draw(0, 2) === 1;
  const places = length - 2 * EDGE;
  const first = draw(0, places);
  const other = draw(0, places - 1);
  const second = other < first ? other : other + 1;
  return { inside, left: EDGE + Math.min(first, second), right: EDGE + Math.max(first, second) };
}

/** Phrases are shorter than `phraseLimit`. */
export interface RuleDraws {
  readonly draw: DrawInteger;
  /** Which context a phrase inside is taken from. */
  readonly takesLeft: () => boolean;
  readonly phraseLimit: number;
}

/** Hides a part of the text and writes the loser into it. */
export function reject(text: Int32Array, cut: Cut, maskId: number, draws: RuleDraws): Rejected {
  const { inside, left, right } = cut;
  const isHidden = (at: number): boolean => (at >= left && at < right) === inside;
  const loser = inside ? repeatInside(text, cut, draws) : repeatOutside(text, cut, draws);
  const last = text.length - 1;
  const winners = text.map((id, at) => (isHidden(at) ? id : -1));
  return {
    ids: text.map((id, at) => (isHidden(at) ? maskId : id)),
    winners,
    losers: text.map((_, at) => (isHidden(at) && at > 0 && at < last ? loser(at) : -1)),
    hidden: winners.reduce((count, id) => count + (id < 0 ? 0 : 1), 0),
  };
}

/** The loser's token at a position. Phrases lie where their multiples do, from the text's beginning. */
type Loser = (at: number) => number;

function phraseLength({ draw, phraseLimit }: RuleDraws, part: number, context: number): number {
  return draw(1, Math.max(2, Math.min(part + 1, context + 1, phraseLimit)));
}

/** Repeats the end of the text before, or the beginning of the text behind; the text's own ends are no part of either. */
function repeatInside(text: Int32Array, { left, right }: Cut, draws: RuleDraws): Loser {
  const takesLeft = draws.takesLeft();
  const context = takesLeft ? text.subarray(1, left) : text.subarray(right, text.length - 1);
  const length = phraseLength(draws, right - left, context.length);
  const phrase = takesLeft ? context.subarray(context.length - length) : context.subarray(0, length);
  return (at) => phrase[at % length]!;
}

/** Repeats the beginning of the text between to its left, and its end to its right. */
function repeatOutside(text: Int32Array, { left, right }: Cut, draws: RuleDraws): Loser {
  const kept = text.subarray(left, right);
  const side = (part: number, phraseOf: (length: number) => Int32Array): Loser => {
    const length = phraseLength(draws, part, kept.length);
    const phrase = phraseOf(length);
    const shift = draws.draw(0, length);
    return (at) => phrase[(at + shift) % length]!;
  };
  const before = side(left, (length) => kept.subarray(0, length));
  const behind = side(text.length - right, (length) => kept.subarray(kept.length - length));
  return (at) => (at < left ? before(at) : behind(at));
}

/** The objective's weights. */
export interface RejectionWeights {
  readonly betaW: number;
  readonly betaL: number;
  readonly betaA: number;
  readonly gamma: number;
}

/**
 * -log sigmoid(betaW W - betaL L - gamma) - betaA W of one text, W and L the winner's and the loser's log-probabilities over their
 * denominators; and how it changes with W and L.
 */
export function rejectionLoss(W: number, L: number, { betaW, betaL, betaA, gamma }: RejectionWeights) {
  const margin = betaW * W - betaL * L - gamma;
  const doubt = 1 / (1 + Math.exp(margin));
  const surprise = margin > 0 ? Math.log1p(Math.exp(-margin)) : Math.log1p(Math.exp(margin)) - margin;
  return { loss: surprise - betaA * W, byW: -doubt * betaW - betaA, byL: doubt * betaL };
}
