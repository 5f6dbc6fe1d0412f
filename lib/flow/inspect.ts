/** Looking inside: every state of a text between data and noise. */

import { cancellable } from "../cancellation.js";
import { checkNames, checkSignal } from "../decoding/options.js";
import type { NativeCancellation } from "../native/addon.js";
import type { Seed } from "../rng.js";
import type { FlowHost } from "./job.js";
import { hasReading } from "./request.js";
import { encodedText, latentSizes, type StateStatistics, statisticsOf, writtenAs } from "./states.js";

export interface InspectOptions {
  /** Of the encoder's noise. Default: 0. */
  seed?: Seed;
  signal?: AbortSignal;
}

/** A state's tokens, one per token of the text. */
export interface Reading {
  ids: Int32Array;
  /** Empty where the model has no tokenizer. */
  text: string;
  /** Probability of every token. */
  confidence: Float32Array;
  /** Share of the text's own tokens. */
  accuracy: number;
}

/** A state: h^(level), in text order. */
export interface Level extends StateStatistics {
  level: number;
  /** [N, c] where c = latentSize * patchSize. */
  latents: Float64Array;
  /** What the state reads as, by the codebook or its readout; undefined where it has none. */
  reading?: Reading;
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
  checkNames(options, ["seed", "signal"], "inspect");
  checkSignal(options.signal);
  const { ids, noise } = encodedText(host, text, options.seed);
  return cancellable(host, options.signal, (cancellation) => look(host, ids, { noise, cancellation }));
}

interface Looking {
  noise: Float32Array;
  cancellation: NativeCancellation;
}

async function look(host: FlowHost, ids: Int32Array, { noise, cancellation }: Looking): Promise<Inspection> {
  const { c, P } = latentSizes(host.config);
  const request = { ids, batch: 1, length: ids.length, noise, cancellation };
  const pass = await host.native.encode({ ...request, states: true });
  const states = await host.native.trace(request);
  const levels: Level[] = [];
  for (const [level, latents] of states.entries()) {
    const logDet = level > 0 ? { logDet: pass.logDet[level - 1]! } : {};
    const reading = hasReading(level, host.config) ? { reading: await readingOf(host, { level, latents }, ids) } : {};
    levels.push({ level, latents, ...reading, ...logDet, ...statisticsOf(latents, c, states[level - 1]) });
  }
  return { ids, positions: ids.length / P, channels: c, levels, nelbo: pass.nelbo };
}

async function readingOf(
  host: FlowHost,
  state: { level: number; latents: Float64Array },
  text: Int32Array,
): Promise<Reading> {
  const { tokens, confidence } = await host.native.read(state);
  const right = tokens.reduce((sum, token, i) => sum + (token === text[i] ? 1 : 0), 0);
  return { ids: tokens, text: writtenAs(tokens, host), confidence, accuracy: right / text.length };
}
