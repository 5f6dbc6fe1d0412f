/** Unmasks where the model's distribution has the lowest entropy (Dream's "entropy"). */

import type { PolicyDefinition } from "./policy.js";
import { highest } from "./rank.js";

export const entropy: PolicyDefinition = {
  name: "entropy",
  summary: "keeps the proposals of lowest entropy (Dream)",
  options: {},
  defaults: () => ({ temperature: 0 }),
  create: () => ({
    kind: "closed",
    ask: () => ({ entropy: true }),
    choose: ({ entropy, count }) =>
      highest(
        entropy!.map((nats) => -nats),
        count,
      ),
  }),
};
