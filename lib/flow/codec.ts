/** From text to a state's latents, and back. */

import { cancellable } from "../cancellation.js";
import { checkNames, checkNumber, checkSignal, invalid } from "../decoding/options.js";
import type { FlowReading } from "../native/addon.js";
import type { Prompt } from "../request.js";
import type { FlowHost } from "./job.js";
import { checkInversion, type Inversion } from "./plan.js";
import {
  contextOf,
  distancesOf,
  type EncodingOptions,
  encodedText,
  latentSizes,
  sequenceOf,
  writtenAs,
} from "./states.js";

export interface FlowEncodeOptions extends EncodingOptions {
  /** 0: the data's latents, .. L: base noise. Default: L. */
  level?: number;
  signal?: AbortSignal;
}

/** h^(level) of a text, in text order (tarflowlm.md section 2.1). */
export interface FlowState {
  level: number;
  /** N, each `patchSize` tokens. */
  positions: number;
  /** c = latentSize * patchSize. */
  channels: number;
  /** [N,c]. */
  latents: Float64Array;
  /** [N * patchSize] the text's tokens, ends of text that fill the last patch included. */
  ids: Int32Array;
}

export interface FlowDecodeOptions {
  /** [N,c] of a state, 1 .. maxPositions positions of finite numbers, less those of the context. */
  latents: ArrayLike<number>;
  /** Which state it is: 0 .. L. Default: L, base noise. */
  level?: number;
  /** The text in front that the state was encoded behind, or that noise is to be continued from: see `encode`. Default: none. */
  context?: Prompt;
  /** How the flows below it are inverted; "auto" is for `generate`. Default: "sequential". */
  inversion?: Exclude<Inversion, "auto">;
  signal?: AbortSignal;
}

export interface FlowText {
  /** [N * patchSize]. */
  ids: Int32Array;
  /** Empty where the model has no tokenizer. */
  text: string;
  /** [N * patchSize] posterior probability of every token: against the other tokens, however far the latents lie from all of them. */
  confidence: Float32Array;
  /** [N * patchSize] how far the latents lie from the token's mean, in its standard deviations: see `Reading.distance`. */
  distance: Float32Array;
  /** [N,c] the data's latents. */
  latents: Float64Array;
}

export async function encode(host: FlowHost, text: Prompt, options: FlowEncodeOptions = {}): Promise<FlowState> {
  checkNames(options, ["level", "context", "seed", "signal"], "encode");
  const { flows } = host.config;
  const level = checkNumber(options.level ?? flows.length, { min: 0, max: flows.length, integer: true }, "level");
  checkSignal(options.signal);
  const encoded = encodedText(host, text, options);
  const { ids, noise } = encoded;
  const { c, P } = latentSizes(host.config);
  return cancellable(host, options.signal, async (cancellation) => {
    const states = await host.native.trace({ ...sequenceOf(encoded), noise, cancellation, to: level });
    return { level, positions: ids.length / P, channels: c, latents: states[level]!, ids };
  });
}

export async function decode(host: FlowHost, options: FlowDecodeOptions): Promise<FlowText> {
  checkNames(options, ["latents", "level", "context", "inversion", "signal"], "decode");
  const { native, config } = host;
  const { flows } = config;
  const level = checkNumber(options.level ?? flows.length, { min: 0, max: flows.length, integer: true }, "level");
  const plans = checkInversion(options.inversion, config);
  if (plans === "auto") throw invalid("inversion", plans, `"sequential", "jacobi", or a plan for each flow`);
  if (level === 0 && options.inversion !== undefined)
    throw invalid("inversion", options.inversion, "none at level 0, where no flow is inverted");
  checkSignal(options.signal);
  const { c, P } = latentSizes(config);
  const prefix = contextOf(host, options.context);
  const latents = checkLatents(options.latents, c, config.maxPositions - prefix.length / P);
  return cancellable(host, options.signal, async (cancellation) => {
    const read = async (state: Float64Array, { tokens, confidence }: FlowReading): Promise<FlowText> => {
      const distance = await distancesOf(host, tokens, state, cancellation);
      return { ids: tokens, text: writtenAs(tokens, host), confidence, distance, latents: state };
    };
    if (level === 0) return read(latents, await native.read({ level, latents, cancellation }));
    const sequence = sequenceOf({ ids: new Int32Array((latents.length / c) * P), prefix });
    const found = await native.invert({ ...sequence, latents, level, plans, cancellation });
    return read(found.state, found);
  });
}

function checkLatents(latents: unknown, c: number, most: number): Float64Array {
  const isArray = Array.isArray(latents) || latents instanceof Float64Array || latents instanceof Float32Array;
  const positions = isArray ? latents.length / c : 0;
  if (!isArray || !Number.isInteger(positions) || positions < 1 || positions > most || !latents.every(Number.isFinite))
    throw invalid("latents", latents, `1 .. ${most} positions of ${c} finite numbers each`);
  return Float64Array.from(latents);
}
