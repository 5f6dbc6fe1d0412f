/** One line per decoding rule; a rule is a file that exports a `PolicyDefinition`. */

import { ancestral } from "./ancestral.js";
import { conv } from "./conv.js";
import { entropy } from "./entropy.js";
import { lowConfidence } from "./low-confidence.js";
import { margin } from "./margin.js";
import type { PolicyDefinition } from "./policy.js";
import { random } from "./random.js";
import { semiAutoregressive } from "./semi-autoregressive.js";
import { threshold } from "./threshold.js";

export const policies: readonly PolicyDefinition[] = [
  conv,
  lowConfidence,
  semiAutoregressive,
  entropy,
  margin,
  threshold,
  ancestral,
  random,
];
