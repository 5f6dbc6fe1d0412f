/** Texts written during training, so that a run can be read as well as measured. */

import type { MaskedConfig } from "../../checkpoint/config.js";
import { Decoder } from "../../decoding/decoder.js";
import { type Decoding, resolveDecoding } from "../../decoding/resolve.js";
import { NoemaError } from "../../errors.js";
import type { NativeMaskedModel } from "../../native/addon.js";
import type { Objective } from "../objective.js";

/** The two directions of a tokenizer. */
export interface Codec {
  encode(text: string): ArrayLike<number>;
  decode(ids: ArrayLike<number>): string;
}

/** With some randomness: texts of different seeds are to differ. */
export const sampleDecoding: Decoding = { rule: "conv", temperature: 0.8 };

export interface SampleOptions {
  /** Tokens after the prompt; fewer at the end of the text. */
  length: number;
  decoding?: Decoding | undefined;
}

/** A prompt that leaves no room would end a run hours after its start. */
export function checkPrompts(
  prompts: readonly string[],
  { maxPositions }: Pick<MaskedConfig, "maxPositions">,
  codec: Codec,
): void {
  for (const prompt of prompts) {
    const { length } = codec.encode(prompt);
    if (length < maxPositions) continue;
    const message = `the sample prompt has ${length} tokens, the model ${maxPositions} positions`;
    throw new NoemaError("ERR_PROMPT_TOO_LONG", message, { prompt: length, positions: maxPositions });
  }
}

/** Writes texts with the model as it stands; `checkPrompts` has seen the prompts. The same seed, the same text. */
export function textSampler(
  model: NativeMaskedModel,
  config: MaskedConfig,
  codec: Codec,
  options: SampleOptions,
): Objective["sample"] {
  const { length, decoding = sampleDecoding } = options;
  const settings = resolveDecoding(decoding);
  return async (prompt, seed) => {
    const given = Array.from(codec.encode(prompt));
    const total = Math.min(config.maxPositions, given.length + length);
    const ids = new Int32Array(total).fill(config.maskTokenId);
    ids.set(given);
    const start = { ids, seed: BigInt(seed), eosFrom: config.eosTokenId === undefined ? -1 : given.length };
    const session = model.session({ batch: 1, length: total, ids, seeds: BigUint64Array.of(start.seed) });
    try {
      const { maskTokenId: maskId, eosTokenId: eosId = -1 } = config;
      const decoder = new Decoder({ session, starts: [start], settings, maskId, eosId });
      await decoder.run();
      const { ids: written, cut } = decoder.sequences[0]!;
      const end = cut >= 0 && written[cut - 1] === eosId ? cut - 1 : total;
      return codec.decode(written.slice(0, end));
    } finally {
      session.dispose();
    }
  };
}
