/** Unmasks where the likeliest token leads the second by most (Dream's "topk_margin"). */

import type { PolicyDefinition } from "./policy.js";
import { highest } from "./rank.js";

export const margin: PolicyDefinition = {
  name: "margin",
  summary: "keeps the proposals whose probability leads the runner-up by most (Dream)",
  options: {},
  defaults: () => ({ temperature: 0 }),
  create: () => ({
    kind: "closed",
    ask: () => ({ margin: true }),
    choose: ({ margin, count }) => highest(margin!, count),
  }),
};
