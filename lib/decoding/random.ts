/** Positions in a random order, as many per step as the schedule says (LLaDA's "random" remasking). Known beforehand. */

import { RngStream } from "../rng.js";
import type { PolicyDefinition } from "./policy.js";
import { highest } from "./rank.js";

export const random: PolicyDefinition = {
  name: "random",
  summary: "an equal number of random positions per step",
  options: {},
  defaults: () => ({ temperature: 1 }),
  create: () => ({
    kind: "open",
    pick: ({ rng, step, count, positions }) => {
      const keys = positions.map((at) => rng.uniform(RngStream.order, step, at, 0));
      return highest(keys, count).map((i) => positions[i]!);
    },
  }),
};
