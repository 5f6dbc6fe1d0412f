/**
 * Blocks from left to right, low confidence inside (LLaDA's block_length). Blocks belong to the driver and any rule takes
 * `blockLength`; this name is that combination with its usual block of 32.
 */

import { lowConfidence } from "./low-confidence.js";
import type { PolicyDefinition } from "./policy.js";

export const semiAutoregressive: PolicyDefinition = {
  ...lowConfidence,
  name: "semi-autoregressive",
  summary: "blocks from left to right, low confidence inside (LLaDA)",
  defaults: () => ({ temperature: 0, blockLength: 32 }),
};
