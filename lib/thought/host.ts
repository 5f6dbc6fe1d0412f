/** What jobs and fits need of a loaded thought model. */

import type { ThoughtConfig } from "../checkpoint/config.js";
import type { NativeCancellation, NativeThoughtModel } from "../native/addon.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { ThoughtSizes } from "./thought.js";

export interface ThoughtHost {
  readonly native: NativeThoughtModel;
  readonly config: ThoughtConfig;
  readonly tokenizer: Tokenizer | undefined;
  readonly sizes: ThoughtSizes;
  createCancellation(): NativeCancellation;
}
