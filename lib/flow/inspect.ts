/** Looking inside: every state of a text between data and noise. */

import { cancellable } from "../cancellation.js";
import { checkNames, checkSignal } from "../decoding/options.js";
import type { NativeCancellation } from "../native/addon.js";
import type { Prompt } from "../request.js";
import type { FlowHost } from "./job.js";
import { hasReading } from "./request.js";
import {
  distancesOf,
  type Encoded,
  type EncodingOptions,
  encodedText,
  latentSizes,
  type StateStatistics,
  sequenceOf,
  statisticsOf,
  writtenAs,
} from "./states.js";

export interface InspectOptions extends EncodingOptions {
  signal?: AbortSignal;
}

/** A state's tokens, one per token of the text. */
export interface Reading {
  ids: Int32Array;
  /** Empty where the model has no tokenizer. */
  text: string;
  /** Probability of every token: against the other tokens, and so near 1 also far from all of them. */
  confidence: Float32Array;
  /**
   * Of level 0: how far a token's latents lie from the mean of the token that they read as, in its standard deviations. The encoder's
   * noise takes them about sqrt(latentSize) away; far more, and the model never saw such latents, whatever the confidence.
   */
  distance?: Float32Array;
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
  /** The text's tokens, without its context's, ends of text that fill the last patch included. */
  ids: Int32Array;
  positions: number;
  channels: number;
  /** L + 1 states: the data's latents first, base noise last. */
  levels: Level[];
  /** [N] the bound's share of every position, in nats. */
  nelbo: Float32Array;
}

export async function inspect(host: FlowHost, text: Prompt, options: InspectOptions = {}): Promise<Inspection> {
  checkNames(options, ["context", "seed", "signal"], "inspect");
  checkSignal(options.signal);
  const encoded = encodedText(host, text, options);
  return cancellable(host, options.signal, (cancellation) => look(host, encoded, cancellation));
}

async function look(host: FlowHost, encoded: Encoded, cancellation: NativeCancellation): Promise<Inspection> {
  const { ids, noise } = encoded;
  const { c, P } = latentSizes(host.config);
  const request = { ...sequenceOf(encoded), noise, cancellation };
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
  const distance = state.level === 0 ? { distance: await distancesOf(host, tokens, state.latents) } : {};
  return { ids: tokens, text: writtenAs(tokens, host), confidence, ...distance, accuracy: right / text.length };
}
