/** The codebook in training: its gauge, its bounds, how far its tokens lie apart. */

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

/** Pairs looked at, of large vocabularies: those of this many tokens spread over it. */
const TOKENS = 2048;

/**
 * The least distance of two means, of those looked at, over the sum of their deviations: above 3 or so, tokens are told
 * apart.
 */
export async function separation(trainer: NativeTrainer, source: "parameter" | "average"): Promise<number> {
  const [mean, logSigma] = await Promise.all([trainer.read(source, MEAN), trainer.read(source, LOG_SIGMA)]);
  const d = mean.length / logSigma.length;
  const stride = Math.ceil(logSigma.length / TOKENS);
  let least = Number.POSITIVE_INFINITY;
  for (let j = 0; j < logSigma.length; j += stride)
    for (let k = 0; k < j; k += stride) {
      let square = 0;
      for (let i = 0; i < d; i++) square += (mean[j * d + i]! - mean[k * d + i]!) ** 2;
      least = Math.min(least, Math.sqrt(square) / (Math.exp(logSigma[j]!) + Math.exp(logSigma[k]!)));
    }
  return least;
}
