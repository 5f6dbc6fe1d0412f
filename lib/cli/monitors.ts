/** What a held-out evaluation found out beside the bound, in lines for people. */

import type { FlowMonitors, HeldOutMetric, ReadoutMonitors } from "../training/metrics.js";

/** A line for the flows of a stack, or for its readouts; none for other models. */
export function monitorLines({ flows, readouts }: Pick<HeldOutMetric, "flows" | "readouts">): string[] {
  return [...(flows ? [flowsLine(flows)] : []), ...(readouts ? [readoutsLine(readouts)] : [])];
}

function flowsLine({ gains: [alone = Number.NaN, ...gains], meanSquares, kurtosis, separation }: FlowMonitors): string {
  const taken = gains.map((nats, l) => `, flow ${l + 2} takes off ${nats.toFixed(4)}`);
  const states = `states' mean squares ${all(meanSquares, 2)}, kurtosis ${all(kurtosis, 1)}`;
  return `  flow 1 alone ${alone.toFixed(4)}${taken.join("")}; ${states}; codebook separation ${separation.toFixed(2)}`;
}

function readoutsLine({ crossEntropy, accuracy }: ReadoutMonitors): string {
  const levels = accuracy.map((share, l) => {
    return `state ${l + 1} ${(100 * share).toFixed(1)} % right, ${crossEntropy[l]!.toFixed(4)} nats per token`;
  });
  return `  readouts: ${levels.join("; ")}`;
}

function all(values: readonly number[], digits: number): string {
  return values.map((value) => value.toFixed(digits)).join(" ");
}
