/** What jobs need of a loaded thought model. */

import type { NativeCancellation } from "../native/addon.js";
import type { ThoughtCore } from "../posterior/core.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";

export interface ThoughtHost extends ThoughtCore {
  readonly tokenizer: Tokenizer | undefined;
  createCancellation(): NativeCancellation;
}
