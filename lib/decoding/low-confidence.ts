/** Keeps the proposals that the model is surest of and masks the rest again (LLaDA's "low_confidence", MaskGIT). */

import type { PolicyDefinition } from "./policy.js";
import { highest } from "./rank.js";

export const lowConfidence: PolicyDefinition = {
  name: "low-confidence",
  summary: "keeps the proposals of highest probability (LLaDA)",
  options: {},
  defaults: () => ({ temperature: 0 }),
  create: () => ({
    kind: "closed",
    ask: () => ({}),
    choose: ({ confidence, count }) => highest(confidence, count),
  }),
};
