/** What fits, drafts and jobs need of a loaded thought model. */

import type { ThoughtConfig } from "../checkpoint/config.js";
import type { NativeCancellation, NativeThoughtModel } from "../native/addon.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { ThoughtSizes } from "./thought.js";

/** What computes. */
export interface ThoughtCore {
  readonly native: NativeThoughtModel;
  readonly config: ThoughtConfig;
  readonly sizes: ThoughtSizes;
}

export interface ThoughtHost extends ThoughtCore {
  readonly tokenizer: Tokenizer | undefined;
  createCancellation(): NativeCancellation;
}
