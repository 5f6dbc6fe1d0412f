/**
 * Keeps every proposal of the block whose probability reaches a threshold, and at least the best one (Fast-dLLM). Easy
 * text takes few passes, hard text one per token; `steps` has no meaning here.
 */

import type { PolicyDefinition } from "./policy.js";
import { highest } from "./rank.js";

export const threshold: PolicyDefinition = {
  name: "threshold",
  summary: "keeps all proposals above a probability, at least one per step (Fast-dLLM)",
  options: {
    threshold: { kind: "number", min: 0, max: 1, default: 0.9, what: "probability from which a proposal is kept" },
  },
  defaults: () => ({ temperature: 0, blockLength: 32 }),
  create: ({ threshold }) => ({
    kind: "closed",
    adaptive: true,
    ask: () => ({}),
    choose: ({ confidence, positions }) =>
      highest(confidence, positions.length).filter(
        (i, place) => place === 0 || confidence[i]! >= (threshold as number),
      ),
  }),
};
