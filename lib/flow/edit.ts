/**
 * Editing in continuous space. A state h^(level) is changed at some positions; the state above it, the noise that its
 * flow turns into text, is kept; so what comes after a change in that flow's order follows it, what comes before stays
 * bit for bit, and the flows below carry the change to the data. Base noise has no state above: there all but the
 * change stays, and the text follows.
 */

import { cancellable } from "../cancellation.js";
import { checkNames, checkNumber, checkSignal, invalid } from "../decoding/options.js";
import type { FlowInverse, NativeCancellation } from "../native/addon.js";
import type { Prompt } from "../request.js";
import {
  type Changes,
  checkChanges,
  differencesOf,
  type LatentChange,
  type TokenChange,
  type TokenDifference,
} from "./changes.js";
import type { FlowHost } from "./job.js";
import { type Encoded, type EncodingOptions, encodedText, latentSizes, sequenceOf, writtenAs } from "./states.js";

export interface EditOptions extends EncodingOptions {
  text: Prompt;
  /**
   * New tokens. Above level 0 it is their states, as in the text with them in it, that are put in, and the tokens may
   * come or not: see `TokenDifference.wanted`. None at level L: base noise at a place is no token's, but what
   * everything before it leaves open.
   */
  tokens?: readonly TokenChange[];
  /** Changes of the state at `level`. */
  latents?: readonly LatentChange[];
  /**
   * 0 .. L: the inverse that leads to this state, and those below it, carry the changes on; the states above stay.
   * Default: 0, the data's latents, where only the flow nearest the data follows. L is base noise, whose rows only
   * latents replace.
   */
  level?: number;
  signal?: AbortSignal;
}

export interface Edit {
  /** Up to the end of the text, where it has come to one. */
  ids: Int32Array;
  /** Empty where the model has no tokenizer. */
  text: string;
  /**
   * Index of an end-of-text token that the edit brought, by itself or because it was asked for: there the text ends, as one that is
   * generated does. The text's own are no end. Left out: it brought none.
   */
  end?: number;
  /** Every place that was asked for, whether it changed or not, and all others that did, behind the end as well. */
  differences: TokenDifference[];
  /** [N,c] the state at `level` after the edit; where it was changed, as it was put in. */
  latents: Float64Array;
}

const names = ["text", "context", "tokens", "latents", "level", "seed", "signal"];

export async function edit(host: FlowHost, options: EditOptions): Promise<Edit> {
  checkNames(options, names, "edit");
  const { text, tokens = [], latents = [], level = 0, signal, ...encoding } = options;
  const L = host.config.flows.length;
  checkNumber(level, { min: 0, max: L, integer: true }, "level");
  checkSignal(signal);
  const encoded = encodedText(host, text, encoding);
  const { c: channels, P: patchSize } = latentSizes(host.config);
  const { vocabSize } = host.config;
  checkChanges({ tokens, latents }, { tokens: encoded.tokens, vocabSize, patchSize, channels });
  if (level === L && tokens.length > 0)
    throw invalid("level", level, `0 .. ${L - 1} with tokens: base noise, level ${L}, is changed by latents alone`);
  return cancellable(host, signal, (cancellation) =>
    regenerated(host, encoded, { tokens, latents, level, cancellation }),
  );
}

async function regenerated(host: FlowHost, encoded: Encoded, changes: Editing): Promise<Edit> {
  const { native, config } = host;
  const { level, cancellation } = changes;
  const { given, fixed, above } = await changedState(host, encoded, changes);
  const request = { ...sequenceOf(encoded), cancellation };
  const changed: Pick<FlowInverse, "state" | "tokens"> =
    level === config.flows.length
      ? { state: given, tokens: new Int32Array(0) }
      : await native.invert({ ...request, latents: above, level: level + 1, to: level, fixed, given });
  const found = level === 0 ? changed : await native.invert({ ...request, latents: changed.state, level });
  const before = encoded.ids.subarray(0, encoded.tokens);
  const after = found.tokens.slice(0, encoded.tokens);
  const end = after.findIndex((token, at) => token === config.eosTokenId && before[at] !== token);
  const ids = end < 0 ? after : after.slice(0, end);
  const differences = differencesOf(before, after, changes, config.patchSize);
  return {
    ...{ ids, text: writtenAs(ids, host), differences, latents: changed.state },
    ...(end >= 0 && { end }),
  };
}

interface Editing extends Changes {
  level: number;
  cancellation: NativeCancellation;
}

/** The state at `level` with the changes, where they are, and the state above as it was. */
async function changedState(
  { native, config }: FlowHost,
  { ids, noise, prefix }: Encoded,
  { tokens, latents, level, cancellation }: Editing,
) {
  const { c, P } = latentSizes(config);
  const traced = (text: Int32Array, to: number) =>
    native.trace({ ...sequenceOf({ ids: text, prefix }), noise, cancellation, to });
  const top = Math.min(level + 1, config.flows.length);
  const before = await traced(ids, top);
  const fixed = new Uint8Array(ids.length / P);
  const given = before[level]!.slice();
  const changed = ids.slice();
  for (const { at, token } of tokens) {
    changed[at] = token;
    fixed[Math.floor(at / P)] = 1;
  }
  // The new tokens' latents keep the noise of the old ones.
  if (tokens.length > 0) {
    const after = (await traced(changed, level))[level]!;
    for (const [n, isFixed] of fixed.entries()) if (isFixed) given.set(after.subarray(n * c, (n + 1) * c), n * c);
  }
  for (const { position, values } of latents) {
    given.set(Array.from(values), position * c);
    fixed[position] = 1;
  }
  return { given, fixed, above: before[top]! };
}
