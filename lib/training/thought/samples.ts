/** Texts of a thought model in training: a thought of the prompt, and what it leads to. */

import type { ThoughtConfig } from "../../checkpoint/config.js";
import type { NativeThoughtModel } from "../../native/addon.js";
import { begin, write } from "../../thought/drafts.js";
import type { ThoughtHost } from "../../thought/host.js";
import { mannerOf } from "../../thought/request.js";
import type { Codec } from "../masked/samples.js";
import type { Objective } from "../objective.js";

/** Some randomness: texts of different seeds are to differ. */
const sampling = { temperature: 0.8 };

/** Writes texts with the model as it stands; `checkPrompts` has seen the prompts. The same seed, the same text. */
export function thoughtSampler(
  host: Omit<ThoughtHost, "tokenizer" | "native" | "config"> & { native: NativeThoughtModel; config: ThoughtConfig },
  codec: Codec,
  { length }: { length: number },
): Objective["sample"] {
  const { config } = host;
  const manner = mannerOf(sampling, config, Object.keys(sampling));
  return async (prompt, seed) => {
    const given = Array.from(codec.encode(prompt));
    const wanted = Math.min(length, config.maxPositions - given.length);
    const writing = { wanted, manner, cancellation: host.createCancellation() };
    const all = { ...host, tokenizer: undefined };
    const [draft] = await begin(all, [{ prompt: given, seed: BigInt(seed) }], writing);
    await write(all, [draft!], writing);
    const end = draft!.tokens.indexOf(config.eosTokenId ?? -1);
    return codec.decode([...given, ...draft!.tokens.slice(0, end < 0 ? undefined : end)]);
  };
}
