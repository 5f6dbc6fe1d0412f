/** The weights that a fresh flow begins with: every flow above the first near the identity, the codebook's tokens apart. */

import type { FlowConfig } from "../../checkpoint/config.js";

/** How a tensor begins: normal values of this deviation, or these values. */
export type Start = number | ((index: number) => number);

const BODY = 0.02;
/** exp of it is a third of the distance at which most tokens of a normal codebook lie: they overlap, and separate by themselves. */
const LOG_SIGMA = Math.log(0.35);
/** A position's channels have unit scale: this gives the body's stream about the scale of embeddings. */
const INPUT = 0.1;
/** A state's channels have unit scale, and only some of them tell the token. */
const READOUT = 0.3;
/** Means of a mixture-cdf's components: apart enough to differ, close enough to make one bell. */
const MEANS = 0.1;

export function flowStart(name: string, config: FlowConfig): Start {
  const stage = /^flows\.(\d+)\.(.+)$/.exec(name);
  if (!stage) return name === "codebook.mean" ? 1 : () => LOG_SIGMA;
  const { kind, numLayers, numComponents: K = 0 } = config.flows[Number(stage[1])]!;
  const own = stage[2]!;
  if (own === "start" || own === "components.mean") return 1;
  if (own === "components.log_sigma") return () => LOG_SIGMA;
  if (/^(input|context)\.weight$/.test(own)) return INPUT;
  if (own === "maf.embed.weight") return 0.5;
  if (own === "readout.input.weight") return READOUT;
  if (own === "maf.out.bias") return (index) => componentMean(index % (3 * K), K);
  if (own.endsWith(".bias")) return () => 0;
  if (own === "maf.out.weight" || (own === "head.weight" && kind === "affine")) return () => 0;
  if (own.endsWith("norm.weight")) return () => 1;
  return /\.(o|down)\.weight$/.test(own) ? BODY / Math.sqrt(2 * numLayers) : BODY;
}

/** K logits of 0, K means spread evenly, K raw log-scales of 0. */
function componentMean(index: number, K: number): number {
  return index < K || index >= 2 * K || K === 1 ? 0 : MEANS * ((2 * (index - K)) / (K - 1) - 1);
}
