/** What the objectives of flows share, whether the flows are trained or their readouts. */

import type { FlowConfig } from "../../checkpoint/config.js";
import type { NativeFlowModel, NativeFlowTrainer } from "../../native/addon.js";
import type { Objective } from "../objective.js";
import type { TrainSettings } from "../options.js";
import { FlowBatches } from "./batches.js";

export interface FlowParts {
  config: FlowConfig;
  settings: TrainSettings;
  model: NativeFlowModel;
  trainer: NativeFlowTrainer;
  sample: Objective["sample"];
}

export abstract class FlowFamilyObjective {
  protected readonly settings: TrainSettings;
  protected readonly batches: FlowBatches;
  readonly #parts: FlowParts;

  constructor(parts: FlowParts) {
    this.#parts = parts;
    this.settings = parts.settings;
    this.batches = new FlowBatches(parts.config, parts.settings);
  }

  get config(): FlowConfig {
    return this.#parts.config;
  }
  get trainer(): NativeFlowTrainer {
    return this.#parts.trainer;
  }
  get parameters(): number {
    return this.#parts.model.info().parameters;
  }

  sample(prompt: string, seed: number): Promise<string> {
    return this.#parts.sample(prompt, seed);
  }

  dispose(): void {
    this.#parts.trainer.dispose();
    this.#parts.model.dispose();
  }
}
