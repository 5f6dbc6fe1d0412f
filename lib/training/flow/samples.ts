/** Texts of a flow model: base noise through the inverses, tokens by the codebook. */

import type { FlowConfig } from "../../checkpoint/config.js";
import { NoemaError } from "../../errors.js";
import type { NativeFlowModel } from "../../native/addon.js";
import { latentNoise } from "../../normals.js";
import { filledBefore } from "../../patches.js";
import type { Codec } from "../masked/samples.js";
import type { Objective } from "../objective.js";

/** A prompt that the model cannot take would end a run hours after its start. */
export function checkFlowPrompts(prompts: readonly string[], config: FlowConfig, codec: Codec): void {
  const most = (config.maxPositions - 1) * config.patchSize;
  for (const prompt of prompts) {
    const { length } = filledBefore(codec.encode(prompt), config, "the sample prompt");
    if (length > 0 && !config.prefixConditioning)
      throw new NoemaError("ERR_UNSUPPORTED", "a model without prefix conditioning takes no sample prompt");
    if (length <= most) continue;
    const message = `the sample prompt has ${length} tokens, the model room for ${most}`;
    throw new NoemaError("ERR_PROMPT_TOO_LONG", message, { prompt: length, positions: most });
  }
}

/** A model that has learnt little may lead noise to where there are no tokens; that ends no run. */
function asNoText(error: unknown): string {
  if (error instanceof NoemaError && (error.code === "ERR_NON_FINITE" || error.code === "ERR_NOT_CONVERGED"))
    return `(no text: ${error.message})`;
  throw error;
}

/** Writes texts with the model as it stands; `checkFlowPrompts` has seen the prompts. The same seed, the same text. */
export function flowSampler(
  model: NativeFlowModel,
  config: FlowConfig,
  codec: Codec,
  { length }: { length: number },
): Objective["sample"] {
  return async (prompt, seed) => {
    const given = Array.from(codec.encode(prompt));
    const prefix = filledBefore(given, config, "the sample prompt");
    const { patchSize, latentSize, eosTokenId = -1 } = config;
    const room = config.maxPositions * patchSize - prefix.length;
    const added = Math.min(room, Math.ceil(length / patchSize) * patchSize);
    const ids = Int32Array.from([...prefix, ...new Array<number>(added).fill(0)]);
    const noise = latentNoise(seed, added * latentSize);
    const request = { ids, batch: 1, length: ids.length, prefix: prefix.length, noise };
    const found = await model.invert(request).catch(asNoText);
    if (typeof found === "string") return found;
    const { tokens } = found;
    const end = tokens.indexOf(eosTokenId);
    return codec.decode([...given, ...tokens.subarray(0, end < 0 ? added : end)]);
  };
}
