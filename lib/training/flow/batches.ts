/** A training batch's native calls: their noise and their prefixes, functions of the seed, the step and the row. */

import type { FlowConfig } from "../../checkpoint/config.js";
import { fillNormals } from "../../normals.js";
import { Rng, RngStream } from "../../rng.js";
import type { TrainSettings } from "../options.js";

export class FlowBatches {
  readonly #config: FlowConfig;
  readonly #settings: TrainSettings;
  readonly #rng: Rng;

  constructor(config: FlowConfig, settings: TrainSettings) {
    this.#config = config;
    this.#settings = settings;
    this.#rng = new Rng(settings.seed);
  }

  /**
   * Up to microBatch sequences each, with a prefix of its own length or none. `tokens` are modelled, each of which counts for `share`:
   * every sequence weighs the same.
   */
  *of(ids: Int32Array, step: number) {
    const { batch, length, microBatch } = this.#settings;
    for (let firstRow = 0; firstRow < batch; firstRow += microBatch) {
      const part = ids.slice(firstRow * length, Math.min(batch, firstRow + microBatch) * length);
      const rows = part.length / length;
      const prefix = this.#prefix(step, firstRow);
      const tokens = rows * (length - prefix);
      const noise = this.#noise(tokens, step, firstRow);
      const request = { ids: part, batch: rows, length, prefix, noise };
      yield { request, tokens, share: rows / batch / tokens };
    }
  }

  /** Tokens that a call's sequences are given. */
  #prefix(step: number, firstRow: number): number {
    const { patchSize, prefixConditioning } = this.#config;
    const { length, prefixes } = this.#settings;
    const positions = length / patchSize;
    const [chance, place] = [0, 1].map((lane) => this.#rng.uniform(RngStream.time, step, firstRow, lane)) as [
      number,
      number,
    ];
    if (!prefixConditioning || chance >= prefixes || positions < 2) return 0;
    return (1 + Math.floor(place * (positions - 1))) * patchSize;
  }

  #noise(tokens: number, step: number, firstRow: number): Float32Array {
    // Every call has rows of draws to itself: 2^16 of them are more values than a call can hold.
    const place = { stream: RngStream.latent, step, row: firstRow * 65536 };
    return fillNormals(this.#rng, place, new Float32Array(tokens * this.#config.latentSize));
  }
}
