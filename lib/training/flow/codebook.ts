/** The codebook in training: its gauge, its bounds, how far its tokens lie apart. */

import { setImmediate } from "node:timers/promises";
import type { NativeTrainer } from "../../native/addon.js";
import type { TrainSettings } from "../options.js";

const MEAN = "codebook.mean";
const LOG_SIGMA = "codebook.log_sigma";

/**
 * Fixes what the likelihood leaves free or open: scaling all means and deviations alike changes no density ratio, so the means'
 * root mean square is set to 1 (fixed means stay as they are); and nothing keeps a deviation from falling to 0, so none
 * falls below `sigmaFloor`. Nor is it worth much to a rare token whether noise takes it for its neighbour; where it
 * must not, none rises above `sigmaCeiling`.
 */
export async function settleCodebook(
  trainer: NativeTrainer,
  { codebook, sigmaFloor, sigmaCeiling }: Pick<TrainSettings, "codebook" | "sigmaFloor" | "sigmaCeiling">,
): Promise<void> {
  const logScale = codebook === "fixed" ? 0 : Math.log(await scaleMeans(trainer));
  const logSigma = await trainer.read("parameter", LOG_SIGMA);
  const least = Math.log(sigmaFloor);
  const most = sigmaCeiling > 0 ? Math.log(sigmaCeiling) : Number.POSITIVE_INFINITY;
  for (let k = 0; k < logSigma.length; k++) logSigma[k] = Math.min(most, Math.max(least, logSigma[k]! - logScale));
  await trainer.write("parameter", LOG_SIGMA, logSigma);
}

/** Divides the means by their root mean square, and gives it. */
async function scaleMeans(trainer: NativeTrainer): Promise<number> {
  const mean = await trainer.read("parameter", MEAN);
  const rms = Math.sqrt(mean.reduce((sum, x) => sum + x * x, 0) / mean.length);
  for (let i = 0; i < mean.length; i++) mean[i]! /= rms;
  await trainer.write("parameter", MEAN, mean);
  return rms;
}

/** Of larger vocabularies so many tokens, spread over them, are looked at: 34 million pairs, one or two seconds. */
const MOST_TOKENS = 8192;
/** Pairs between two turns of the event loop: about a millisecond. */
const PAIRS_PER_TURN = 1 << 15;

/**
 * The least distance of two tokens' means over the sum of their deviations: above 3 or so, tokens are told apart. Looks at
 * all pairs, of vocabularies above 8,192 at those of every n-th token.
 */
export async function separation(trainer: NativeTrainer, source: "parameter" | "average"): Promise<number> {
  const [mean, logSigma] = await Promise.all([trainer.read(source, MEAN), trainer.read(source, LOG_SIGMA)]);
  const d = mean.length / logSigma.length;
  const stride = Math.ceil(logSigma.length / MOST_TOKENS);
  const sigma = Float64Array.from(logSigma, Math.exp);
  let least = Number.POSITIVE_INFINITY;
  let pairs = 0;
  for (let j = 0; j < sigma.length; j += stride) {
    for (let k = 0; k < j; k += stride) {
      const sum = sigma[j]! + sigma[k]!;
      const most = (least * sum) ** 2;
      let square = 0;
      // Of most pairs a few channels tell that they are not the nearest.
      for (let i = 0; i < d && square < most; i++) square += (mean[j * d + i]! - mean[k * d + i]!) ** 2;
      if (square < most) least = Math.sqrt(square) / sum;
    }
    pairs += j / stride;
    if (pairs < PAIRS_PER_TURN) continue;
    pairs = 0;
    await setImmediate();
  }
  return least;
}
