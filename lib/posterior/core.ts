/** What fits and drafts need of a thought model, loaded or in training. */

import type { ThoughtConfig } from "../checkpoint/config.js";
import type { NativeThoughtModel } from "../native/addon.js";
import type { ThoughtSizes } from "./thought.js";

export interface ThoughtCore {
  readonly native: NativeThoughtModel;
  readonly config: ThoughtConfig;
  readonly sizes: ThoughtSizes;
}
