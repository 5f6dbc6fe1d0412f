/** What a family's training does with a batch of text: the loss, the held-out bound, texts. The rest of a run is the same for all. */

import type { ModelConfig } from "../checkpoint/config.js";
import type { EstimateKind, Window } from "../evaluation/bound.js";
import type { NativeTrainer } from "../native/addon.js";
import type { HeldOutMetric } from "./metrics.js";

/** What is found out about held-out text, but for when. */
export type HeldOut = Omit<HeldOutMetric, "type" | "step" | "source" | "kind">;

export interface Objective {
  readonly config: ModelConfig;
  /** What its losses are. */
  readonly kind: EstimateKind;
  readonly trainer: NativeTrainer;
  readonly parameters: number;
  /** Adds the gradients of the step's batch, [batch * length] ids; its loss in nats per token. */
  accumulate(ids: Int32Array, step: number): Promise<number>;
  /** Called when the optimiser has done the step. */
  settle?(): Promise<void>;
  /** Judges the held-out windows with the weights of `source`. */
  heldOut(windows: readonly Window[], source: "parameter" | "average", signal?: AbortSignal): Promise<HeldOut>;
  /** Writes a text with the model as it stands published; ERR_UNSUPPORTED where the family writes none. */
  sample(prompt: string, seed: number): Promise<string>;
  /** The checkpoint's config; with what was found out about held-out text last, where it belongs to it. Default: `config`. */
  described?(found: HeldOut | undefined): ModelConfig;
  /** Frees model and trainer. */
  dispose(): void;
}

/** Held-out noise never changes, whatever the run's seed, so that curves of different runs compare. */
export const HELD_OUT_SEED = 271828;
