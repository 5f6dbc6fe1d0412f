/** Flows: the telescoped NELBO of tokens encoded with fresh noise (tarflowlm.md sections 1 and 6b). */

import type { FlowConfig } from "../../checkpoint/config.js";
import { sum, type Window } from "../../evaluation/bound.js";
import { flowBounds, flowGains } from "../../evaluation/flow-bound.js";
import { BoundTotals } from "../../evaluation/statistics.js";
import type { FlowBatch, FlowPass } from "../../native/addon.js";
import type { FlowMonitors } from "../metrics.js";
import { HELD_OUT_SEED, type HeldOut, type Objective } from "../objective.js";
import type { TrainSettings } from "../options.js";
import { separation, settleCodebook } from "./codebook.js";
import { FlowFamilyObjective } from "./family.js";
import { Moments } from "./moments.js";

export class FlowObjective extends FlowFamilyObjective implements Objective {
  readonly kind = "upper";

  /** A few sequences at a time; every sequence weighs the same. */
  async accumulate(ids: Int32Array, step: number): Promise<number> {
    const { config, settings, trainer } = this;
    const reconstruction = reconstructionWeight(settings, step);
    let loss = 0;
    for (const { share, ...part } of this.batches.of(ids, step)) {
      const weights = new Float32Array(part.tokens / config.patchSize).fill(share);
      const { nelbo } = await trainer.accumulate({
        ...part.request,
        weights,
        reconstruction,
        beginnings: settings.beginnings,
      });
      loss += share * sum(nelbo);
    }
    return loss;
  }

  /** The gauge and the bounds of the codebook, where it is trained. */
  async settle(): Promise<void> {
    const { settings, trainer } = this;
    if (settings.stage === 0) await settleCodebook(trainer, settings);
  }

  async heldOut(windows: readonly Window[], source: "parameter" | "average", signal?: AbortSignal): Promise<HeldOut> {
    const { config, settings, trainer } = this;
    const draws = settings.evaluateDraws;
    const totals = new BoundTotals();
    const monitor = new Monitor(config);
    const scorer = {
      config,
      encode: (request: FlowBatch) => trainer.encode({ ...request, source, states: true }),
      observe: (pass: FlowPass, tokens: number) => monitor.add(pass, tokens),
    };
    for await (const bound of flowBounds(scorer, windows, { draws, seed: HELD_OUT_SEED, signal })) totals.add(bound);
    const { bound, standardError, sequences, tokens } = totals.summary(draws);
    const flows = monitor.summary(await separation(trainer, source));
    return { bound, standardError, sequences, tokens, draws, flows };
  }
}

/** Over-weighting the reconstruction early lets the tokens' densities separate (tarflowlm.md section 5.1). */
export function reconstructionWeight(
  { reconstruction, reconstructionHalf }: Pick<TrainSettings, "reconstruction" | "reconstructionHalf">,
  step: number,
): number {
  return 1 + (reconstruction - 1) * 2 ** (-(step - 1) / reconstructionHalf);
}

/** What each flow takes off, and whether its output is normal. */
class Monitor {
  readonly #states: Moments[];
  readonly #gains: Float64Array;
  #tokens = 0;

  constructor({ flows }: FlowConfig) {
    this.#gains = new Float64Array(flows.length);
    this.#states = Array.from({ length: flows.length + 1 }, () => new Moments());
  }

  add(pass: FlowPass, tokens: number): void {
    this.#tokens += tokens;
    for (const [l, nats] of flowGains(pass).entries()) this.#gains[l]! += nats;
    for (const [l, state] of (pass.states ?? []).entries()) this.#states[l]!.add(state);
  }

  summary(separation: number): FlowMonitors {
    return {
      gains: Array.from(this.#gains, (nats) => nats / this.#tokens),
      meanSquares: this.#states.map((state) => state.meanSquare),
      kurtosis: this.#states.map((state) => state.kurtosis),
      separation,
    };
  }
}
