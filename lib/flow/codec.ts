/** From text to a state's latents, and back. */

import { cancellable } from "../cancellation.js";
import { checkNames, checkNumber, checkSignal, invalid } from "../decoding/options.js";
import type { Seed } from "../rng.js";
import type { FlowHost } from "./job.js";
import { checkInversion, type Inversion } from "./plan.js";
import { encodedText, latentSizes, writtenAs } from "./states.js";

export interface FlowEncodeOptions {
  /** 0: the data's latents, .. L: base noise. Default: L. */
  level?: number;
  /** Of the encoder's noise. Default: 0. */
  seed?: Seed;
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
  /** [N,c] of a state, 1 .. maxPositions positions of finite numbers. */
  latents: ArrayLike<number>;
  /** Which state it is: 0 .. L. Default: L, base noise. */
  level?: number;
  /** How the flows below it are inverted; "auto" is for `generate`. Default: "sequential". */
  inversion?: Exclude<Inversion, "auto">;
  signal?: AbortSignal;
}

export interface FlowText {
  /** [N * patchSize]. */
  ids: Int32Array;
  /** Empty where the model has no tokenizer. */
  text: string;
  /** [N * patchSize] posterior probability of every token. */
  confidence: Float32Array;
  /** [N,c] the data's latents. */
  latents: Float64Array;
}

export async function encode(
  host: FlowHost,
  text: string | ArrayLike<number>,
  options: FlowEncodeOptions = {},
): Promise<FlowState> {
  checkNames(options, ["level", "seed", "signal"], "encode");
  const { flows } = host.config;
  const level = checkNumber(options.level ?? flows.length, { min: 0, max: flows.length, integer: true }, "level");
  checkSignal(options.signal);
  const { ids, noise } = encodedText(host, text, options.seed);
  const { c, P } = latentSizes(host.config);
  return cancellable(host, options.signal, async (cancellation) => {
    const request = { ids, batch: 1, length: ids.length, noise, cancellation };
    const states = await host.native.trace({ ...request, to: level });
    return { level, positions: ids.length / P, channels: c, latents: states[level]!, ids };
  });
}

export async function decode(host: FlowHost, options: FlowDecodeOptions): Promise<FlowText> {
  checkNames(options, ["latents", "level", "inversion", "signal"], "decode");
  const { native, config } = host;
  const { flows } = config;
  const level = checkNumber(options.level ?? flows.length, { min: 0, max: flows.length, integer: true }, "level");
  const plans = checkInversion(options.inversion, config);
  if (plans === "auto") throw invalid("inversion", plans, `"sequential", "jacobi", or a plan for each flow`);
  if (level === 0 && options.inversion !== undefined)
    throw invalid("inversion", options.inversion, "none at level 0, where no flow is inverted");
  checkSignal(options.signal);
  const latents = checkLatents(options.latents, host);
  const { c, P } = latentSizes(config);
  const length = (latents.length / c) * P;
  return cancellable(host, options.signal, async (cancellation) => {
    if (level === 0) {
      const { tokens, confidence } = await native.read({ level, latents, cancellation });
      return { ids: tokens, text: writtenAs(tokens, host), confidence, latents };
    }
    const request = { ids: new Int32Array(length), batch: 1, length, latents, level, plans, cancellation };
    const { tokens, confidence, state } = await native.invert(request);
    return { ids: tokens, text: writtenAs(tokens, host), confidence, latents: state };
  });
}

function checkLatents(latents: unknown, { config }: FlowHost): Float64Array {
  const { c } = latentSizes(config);
  const most = config.maxPositions;
  const isArray = Array.isArray(latents) || latents instanceof Float64Array || latents instanceof Float32Array;
  const positions = isArray ? latents.length / c : 0;
  if (!isArray || !Number.isInteger(positions) || positions < 1 || positions > most || !latents.every(Number.isFinite))
    throw invalid("latents", latents, `1 .. ${most} positions of ${c} finite numbers each`);
  return Float64Array.from(latents);
}
