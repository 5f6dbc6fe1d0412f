/** R2FT: tells the model's text from what a rule wrote in its place. Held-out text is judged as in other training: it tells when to stop. */

import { NoemaError } from "../../errors.js";
import { Rng, RngStream } from "../../rng.js";
import { MaskedObjective, type MaskedParts } from "./objective.js";
import { drawCut, type Rejected, reject, SHORTEST_REJECTED } from "./rejection.js";

export class RejectiveObjective extends MaskedObjective {
  constructor(parts: MaskedParts) {
    super(parts);
    const { length } = parts.settings;
    if (length >= SHORTEST_REJECTED) return;
    const message = `train: length is ${length}, expected at least ${SHORTEST_REJECTED} for the objective "r2ft"`;
    throw new NoemaError("ERR_INVALID_ARGUMENT", message, { option: "length", value: length });
  }

  /** A few sequences at a time. The loss is the mean over texts. */
  override async accumulate(ids: Int32Array, step: number): Promise<number> {
    const { config, settings, trainer } = this.parts;
    const { batch, length, microBatch, betaW, betaL, betaA, gamma } = settings;
    let loss = 0;
    for (let first = 0; first < batch; first += microBatch) {
      const rows = Array.from({ length: Math.min(microBatch, batch - first) }, (_, i) => first + i);
      const texts = rows.map((row) => this.#rejected(ids.subarray(row * length, (row + 1) * length), step, row));
      const denominators = Float32Array.from(texts, ({ hidden }) => hidden);
      const result = await trainer.accumulatePairs({
        ...{ ids: joined(texts, "ids"), batch: texts.length, length, excludedId: config.maskTokenId },
        ...{ winners: joined(texts, "winners"), losers: joined(texts, "losers") },
        ...{ winnerDenominators: denominators, loserDenominators: denominators },
        ...{ betaW, betaL, betaA, gamma, scale: 1 / batch },
      });
      loss += result.loss;
    }
    return loss;
  }

  /** Draws belong to step and row: a resumed run, and one cut otherwise, draws the same. */
  #rejected(text: Int32Array, step: number, row: number): Rejected {
    const { config, settings } = this.parts;
    const rng = new Rng(settings.seed);
    let lane = 0;
    const draw = (low: number, high: number): number =>
      low + Math.floor(rng.uniform(RngStream.corruption, step, row, lane++) * (high - low));
    const draws = { draw, takesLeft: () => draw(0, 2) === 0, phraseLimit: settings.phraseLimit };
    return reject(text, drawCut(text.length, draw), config.maskTokenId, draws);
  }
}

function joined(texts: readonly Rejected[], name: "ids" | "winners" | "losers"): Int32Array {
  return Int32Array.from(texts.flatMap((text) => [...text[name]]));
}
