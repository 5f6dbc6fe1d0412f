/** Texts of a thought model in training: a thought of the prompt, and what it leads to. */

import { begin, type Manner, write } from "../../decoding/drafts.js";
import type { ThoughtCore } from "../../posterior/core.js";
import { fitSettings } from "../../posterior/fit.js";
import type { Codec } from "../masked/samples.js";
import type { Objective } from "../objective.js";

/** Some randomness: texts of different seeds are to differ. */
const draw = { temperature: 0.8, topK: 0, topP: 1 };

/** Writes texts with the model as it stands; `checkPrompts` has seen the prompts. The same seed, the same text. */
export function thoughtSampler(
  { native, config }: Pick<ThoughtCore, "native" | "config">,
  codec: Codec,
  { length }: { length: number },
): Objective["sample"] {
  const fit = fitSettings({}, config);
  const manner: Manner = { fit, draw, thought: undefined, priorScale: 1, refitEvery: 0 };
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
