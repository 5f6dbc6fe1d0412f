/** Texts of a thought model in training: a thought of the prompt, and what it leads to. */

import { begin, write } from "../../thought/drafts.js";
import type { ThoughtCore } from "../../thought/host.js";
import { mannerOf } from "../../thought/request.js";
import type { Codec } from "../masked/samples.js";
import type { Objective } from "../objective.js";

/** Some randomness: texts of different seeds are to differ. */
const sampling = { temperature: 0.8 };

/** Writes texts with the model as it stands; `checkPrompts` has seen the prompts. The same seed, the same text. */
export function thoughtSampler(
  { native, config }: Pick<ThoughtCore, "native" | "config">,
  codec: Codec,
  { length }: { length: number },
): Objective["sample"] {
  const manner = mannerOf(sampling, config, Object.keys(sampling));
  // These thoughts never leave the run, so whose they are is no question.
  const sizes = { latents: config.numLatents, width: config.hiddenSize, fingerprint: "" };
  const core = { native, config, sizes };
  return async (prompt, seed) => {
    const given = Array.from(codec.encode(prompt));
    const wanted = Math.min(length, config.maxPositions - given.length);
    const [draft] = await begin(core, [{ prompt: given, seed: BigInt(seed) }], { wanted, manner });
    await write(core, [draft!], { wanted, manner });
    const end = draft!.tokens.indexOf(config.eosTokenId ?? -1);
    return codec.decode([...given, ...draft!.tokens.slice(0, end < 0 ? undefined : end)]);
  };
}
