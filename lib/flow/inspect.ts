/** Looking inside: every state of a text between data and noise. */

import { checkNames } from "../decoding/options.js";
import type { Seed } from "../rng.js";
import type { FlowHost } from "./job.js";
import { encodedText, latentSizes, type StateStatistics, statisticsOf } from "./states.js";

export interface InspectOptions {
  /** Of the encoder's noise. Default: 0. */
  seed?: Seed;
}

/** A state: h^(level), in text order. */
export interface Level extends StateStatistics {
  level: number;
  /** [N, c] where c = latentSize * patchSize. */
  latents: Float32Array;
  /** [N] log-determinant of the flow that made it, per position; undefined at level 0. */
  logDet?: Float32Array;
}

export interface Inspection {
  /** The text's tokens, ends of text that fill the last patch included. */
  ids: Int32Array;
  positions: number;
  channels: number;
  /** L + 1 states: the data's latents first, base noise last. */
  levels: Level[];
  /** [N] the bound's share of every position, in nats. */
  nelbo: Float32Array;
}

export async function inspect(
  host: FlowHost,
  text: string | ArrayLike<number>,
  options: InspectOptions = {},
): Promise<Inspection> {
  checkNames(options, ["seed"], "inspect");
  const { ids, noise } = encodedText(host, text, options.seed);
  const { c, P } = latentSizes(host.config);
  const pass = await host.native.encode({ ids, batch: 1, length: ids.length, noise, states: true });
  const states = pass.states!;
  const levels = states.map((latents, level): Level => {
    const logDet = level > 0 ? { logDet: pass.logDet[level - 1]! } : {};
    return { level, latents, ...logDet, ...statisticsOf(latents, c, states[level - 1]) };
  });
  return { ids, positions: ids.length / P, channels: c, levels, nelbo: pass.nelbo };
}
