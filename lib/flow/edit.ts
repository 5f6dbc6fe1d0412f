/**
 * Editing in continuous space. A state h^(level) is changed at some positions; the state above it, the noise that its flow turns
 * into text, is kept; so what comes after a change in that flow's order follows it, what comes before stays bit for bit, and the
 * flows below carry the change to the data.
 */

import { checkNames, checkNumber, invalid } from "../decoding/options.js";
import { NoemaError } from "../errors.js";
import type { NativeCancellation } from "../native/addon.js";
import type { Seed } from "../rng.js";
import { cancellable, type FlowHost } from "./job.js";
import { type Encoded, encodedText, latentSizes } from "./states.js";

/** A new token at a place of the text. */
export interface TokenChange {
  /** Index among the text's tokens. */
  at: number;
  token: number;
}

/** New latents at a position of a state. */
export interface LatentChange {
  /** Index among the positions, of `patchSize` tokens each. */
  position: number;
  /** c = latentSize * patchSize numbers. */
  values: ArrayLike<number>;
}

export interface EditOptions {
  text: string | ArrayLike<number>;
  /** New tokens. Above level 0 it is their states, as in the text with them in it, that are put in. */
  tokens?: readonly TokenChange[];
  /** Changes of the state at `level`. */
  latents?: readonly LatentChange[];
  /**
   * 0 .. L - 1: the inverse that leads to this state, and those below it, carry the changes on; the states above stay. Default: 0, the
   * data's latents, where only the flow nearest the data follows.
   */
  level?: number;
  /** Of the encoder's noise. Default: 0. */
  seed?: Seed;
  signal?: AbortSignal;
}

export interface TokenDifference {
  at: number;
  before: number;
  after: number;
  /** Whether it was asked for; the others followed. */
  asked: boolean;
}

export interface Edit {
  ids: Int32Array;
  /** Empty where the model has no tokenizer. */
  text: string;
  differences: TokenDifference[];
  /** [N,c] the state at `level` after the edit; where it was changed, as it was put in. */
  latents: Float64Array;
}

const names = ["text", "tokens", "latents", "level", "seed", "signal"];

export async function edit(host: FlowHost, options: EditOptions): Promise<Edit> {
  checkNames(options, names, "edit");
  const { text, tokens = [], latents = [], level = 0, seed, signal } = options;
  checkNumber(level, { min: 0, max: host.config.flows.length - 1, integer: true }, "level");
  if (tokens.length + latents.length === 0)
    throw new NoemaError("ERR_INVALID_ARGUMENT", "edit: expected changes, in tokens or in latents");
  const encoded = encodedText(host, text, seed);
  return cancellable(host, signal, (cancellation) =>
    regenerated(host, encoded, { tokens, latents, level, cancellation }),
  );
}

async function regenerated(host: FlowHost, encoded: Encoded, changes: Changes): Promise<Edit> {
  const { tokens, level, cancellation } = changes;
  const { given, fixed, above } = await changedState(host, encoded, changes);
  const request = { ids: encoded.ids, batch: 1, length: encoded.ids.length, cancellation };
  const changed = await host.native.invert({ ...request, latents: above, level: level + 1, to: level, fixed, given });
  const found = level === 0 ? changed : await host.native.invert({ ...request, latents: changed.state, level });
  const ids = found.tokens.slice(0, encoded.tokens);
  const differences = differencesOf(encoded.ids.subarray(0, encoded.tokens), ids, tokens);
  const written = host.tokenizer?.decode(ids, { skipSpecialTokens: true }) ?? "";
  return { ids, text: written, differences, latents: changed.state };
}

interface Changes {
  tokens: readonly TokenChange[];
  latents: readonly LatentChange[];
  level: number;
  cancellation: NativeCancellation;
}

/** The state at `level` with the changes, where they are, and the state above as it was. */
async function changedState(
  { native, config }: FlowHost,
  { ids, tokens: count, noise }: Encoded,
  { tokens, latents, level, cancellation }: Changes,
) {
  const { c, P } = latentSizes(config);
  const request = { batch: 1, length: ids.length, noise, cancellation };
  const before = await native.trace({ ...request, ids, to: level + 1 });
  const fixed = new Uint8Array(ids.length / P);
  const given = before[level]!.slice();
  const changed = ids.slice();
  for (const { at, token } of tokens) {
    checkNumber(at, { min: 0, max: count - 1, integer: true }, "tokens: at");
    checkNumber(token, { min: 0, max: config.vocabSize - 1, integer: true }, "tokens: token");
    changed[at] = token;
    fixed[Math.floor(at / P)] = 1;
  }
  // The new tokens' latents keep the noise of the old ones.
  if (tokens.length > 0) {
    const after = (await native.trace({ ...request, ids: changed, to: level }))[level]!;
    for (const [n, isFixed] of fixed.entries()) if (isFixed) given.set(after.subarray(n * c, (n + 1) * c), n * c);
  }
  for (const { position, values } of latents) {
    checkNumber(position, { min: 0, max: fixed.length - 1, integer: true }, "latents: position");
    if (values?.length !== c || !Array.from(values).every(Number.isFinite))
      throw invalid("latents: values", values, `${c} finite numbers`);
    given.set(Array.from(values), position * c);
    fixed[position] = 1;
  }
  return { given, fixed, above: before[level + 1]! };
}

function differencesOf(before: Int32Array, after: Int32Array, asked: readonly TokenChange[]): TokenDifference[] {
  const places = new Set(asked.map(({ at }) => at));
  return Array.from(before.keys())
    .filter((at) => before[at] !== after[at])
    .map((at) => ({ at, before: before[at]!, after: after[at]!, asked: places.has(at) }));
}
