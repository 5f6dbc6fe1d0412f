/** A thought model's text: what its layers make of the thought that is fitted to it. */

import type { ThoughtInspection } from "../../thought/inspect.js";
import type { ThoughtModel } from "../../thought/model.js";
import { thoughtPicture } from "../../thought/picture.js";
import { numberOf } from "../bound-flags.js";
import { percent } from "../columns.js";
import type { LookOptions, Shown, TextFlags } from "./text.js";

export async function thought(
  model: ThoughtModel,
  { text, think, save }: Pick<TextFlags, "text" | "think" | "save">,
  options: LookOptions,
): Promise<Shown<ThoughtInspection>> {
  const found = await model.inspect(text, {
    ...options,
    ...(think !== undefined && { think: { steps: numberOf(think, "think") } }),
  });
  if (save !== undefined) await found.thought.save(save);
  const rows = found.byLayers.map((_, layers) => rowOf(found, layers));
  return { found, rows: [titles, ...rows], picture: (decode) => thoughtPicture(found, decode) };
}

const titles = ["read up to", "nats/token", "right", "rebuilt", "KL", "of its vectors", "attended most"];

/** When so many layers read the thought; of the last of them, what its vectors are. */
function rowOf({ byLayers, kl, attention }: ThoughtInspection, layers: number): string[] {
  const { crossEntropy, accuracy, rebuilt } = byLayers[layers]!;
  const reading = [crossEntropy.toFixed(3), percent(accuracy), percent(rebuilt)];
  const vectors = kl[layers - 1];
  if (!vectors) return ["no layer", ...reading];
  const total = vectors.reduce((sum, nats) => sum + nats, 0);
  return [
    ...[`layer ${layers - 1}`, ...reading, total.toFixed(1)],
    vectors.map((nats) => nats.toFixed(1)).join(" "),
    mostAttended(attention[layers - 1]!),
  ];
}

/** By all tokens together. */
function mostAttended(weights: readonly number[][]): string {
  const shares = weights[0]!.map((_, m) => weights.reduce((sum, own) => sum + own[m]!, 0) / weights.length);
  const most = shares.reduce((best, share, m) => (share > shares[best]! ? m : best), 0);
  return `vector ${most}, ${(100 * shares[most]!).toFixed(0)} %`;
}
