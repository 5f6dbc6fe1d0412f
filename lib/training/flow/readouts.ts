/** Readouts: cross-entropy of every state above the data's to the tokens, position by position; the flows keep their values. */

import type { FlowConfig } from "../../checkpoint/config.js";
import { sum, type Window } from "../../evaluation/bound.js";
import { flowBounds } from "../../evaluation/flow-bound.js";
import { BoundTotals } from "../../evaluation/statistics.js";
import type { FlowBatch } from "../../native/addon.js";
import { HELD_OUT_SEED, type HeldOut, type Objective } from "../objective.js";
import { FlowFamilyObjective } from "./family.js";
import { measured } from "./shape.js";

export class ReadoutObjective extends FlowFamilyObjective implements Objective {
  readonly kind = "exact";

  /** The mean over the levels, in nats per token. */
  async accumulate(ids: Int32Array, step: number): Promise<number> {
    let loss = 0;
    for (const { request, tokens, share } of this.batches.of(ids, step)) {
      const weights = new Float32Array(tokens).fill(share);
      const { losses } = await this.trainer.accumulateReadouts({ ...request, weights });
      loss += (share * sum(losses.map((level) => sum(level)))) / losses.length;
    }
    return loss;
  }

  async heldOut(windows: readonly Window[], source: "parameter" | "average", signal?: AbortSignal): Promise<HeldOut> {
    const { config, settings, trainer } = this;
    const draws = settings.evaluateDraws;
    const totals = new BoundTotals();
    const levels = config.flows.map(() => ({ nats: 0, right: 0 }));
    let seen = 0;
    // What flowBounds takes for a position's share of the bound is the readouts' mean loss here.
    const encode = async (request: FlowBatch) => {
      const { losses, tokens } = await trainer.readings({ ...request, source });
      const suffix = modelled(request);
      for (const [l, level] of levels.entries()) {
        level.nats += sum(losses[l]!);
        level.right += tokens[l]!.reduce((count, token, i) => count + (token === suffix[i] ? 1 : 0), 0);
      }
      seen += suffix.length;
      const nelbo = losses[0]!.map((_, i) => sum(losses.map((level) => level[i]!)) / losses.length);
      return { nelbo, logSum: nelbo, logDensity: [], logDet: [] };
    };
    const options = { draws, seed: HELD_OUT_SEED, signal };
    for await (const bound of flowBounds({ config, encode }, windows, options)) totals.add(bound);
    const { bound, standardError, sequences, tokens } = totals.summary(draws);
    const readouts = {
      crossEntropy: levels.map(({ nats }) => nats / seen),
      accuracy: levels.map(({ right }) => right / seen),
    };
    return { bound, standardError, sequences, tokens, draws, readouts };
  }

  described(found: HeldOut | undefined): FlowConfig {
    return found?.readouts ? measured(this.config, found.readouts) : this.config;
  }
}

/** The tokens of a batch that are modelled. */
function modelled({ ids, batch, length, prefix = 0 }: FlowBatch): Int32Array {
  const suffix = new Int32Array(batch * (length - prefix));
  for (let b = 0; b < batch; b++)
    suffix.set(ids.subarray(b * length + prefix, (b + 1) * length), b * (length - prefix));
  return suffix;
}
