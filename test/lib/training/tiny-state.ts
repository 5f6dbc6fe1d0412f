/** A training state of ten numbers a buffer. */

import { resolveOptions } from "../../../lib/training/options.js";
import type { StateSource, TrainingState } from "../../../lib/training/state.js";
import { tinyConfig } from "./fake.js";

export const settings = resolveOptions({ run: "run", corpus: ["a.txt"], tokenizer: "t.json" });
export const names = [
  { name: "a", shape: [2, 3] },
  { name: "b", shape: [4] },
];

export function stateAt(step: number): TrainingState {
  return {
    step,
    tokens: step * 10,
    seconds: step,
    settings,
    config: tinyConfig,
    corpus: "c".repeat(64),
    tokenizer: "t".repeat(64),
  };
}

/** Every element says which step and buffer it belongs to. */
export function sourceAt(step: number): StateSource {
  return {
    names: () => names,
    read: async (buffer, name) =>
      new Float32Array(name === "a" ? 6 : 4).fill(step + ["parameter", "m", "v", "average"].indexOf(buffer) / 10),
  };
}
