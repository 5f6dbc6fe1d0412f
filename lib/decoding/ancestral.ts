/**
 * The reverse process itself (MDLM; Dream calls it "origin"): from time t to s < t every masked position is unmasked with
 * probability 1 - s/t on its own, whatever the model says. Nothing is observed, so the plan is known beforehand.
 */

import { RngStream } from "../rng.js";
import type { Moment, PolicyDefinition } from "./policy.js";
import { timeAt } from "./schedule.js";

export const ancestral: PolicyDefinition = {
  name: "ancestral",
  summary: "each masked position is unmasked with probability 1 - s/t, its token drawn from the model (MDLM)",
  options: {
    epsilon: { kind: "number", min: 0, max: 0.5, default: 1e-3, what: "time of the last step, which unmasks the rest" },
  },
  defaults: () => ({ temperature: 1 }),
  create: ({ epsilon }) => ({
    kind: "open",
    pick: (moment) => {
      const chance = unmaskingChance(moment, epsilon as number);
      return moment.positions.filter((at) => moment.rng.uniform(RngStream.order, moment.step, at, 0) < chance);
    },
  }),
};

/** 1 - s/t for times from 1 to epsilon in equal steps; the last step unmasks everything. */
function unmaskingChance({ index, of }: Moment, epsilon: number): number {
  return index >= of - 1 ? 1 : 1 - timeAt(index + 1, of, epsilon) / timeAt(index, of, epsilon);
}
