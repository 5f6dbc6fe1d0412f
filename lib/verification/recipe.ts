/** How verification recomputes arrays: a recipe per kind of case, each yielding what it computed. */

import type { FlowConfig, MaskedConfig, ModelConfig, ThoughtConfig } from "../checkpoint/config.js";
import type { Layout } from "../checkpoint/layout.js";
import type { NativeFlowModel, NativeMaskedModel, NativeThoughtModel, NativeTrainer } from "../native/addon.js";
import type { Golden } from "./golden.js";

interface Loaded<F extends string, Native, Config extends ModelConfig> {
  readonly family: F;
  readonly native: Native;
  readonly config: Config;
  readonly layout: Layout<Config>;
}
export type MaskedCase = Loaded<"masked", NativeMaskedModel, MaskedConfig>;
export type FlowCase = Loaded<"flow", NativeFlowModel, FlowConfig>;
export type ThoughtCase = Loaded<"thought", NativeThoughtModel, ThoughtConfig>;
/** The checkpoint next to the expectations. */
export type LoadedCase = MaskedCase | FlowCase | ThoughtCase;

/** What a recipe says of one array. */
export type Outcome =
  | {
      readonly kind: "values";
      readonly name: string;
      readonly values: ArrayLike<number>;
      readonly skip?: ArrayLike<number>;
    }
  /** Given to the computation: there is nothing to compare. */
  | { readonly kind: "input"; readonly name: string }
  | { readonly kind: "skipped"; readonly name: string; readonly reason: string };

export type Outcomes = AsyncGenerator<Outcome> | Generator<Outcome>;

/** Recomputes what it knows of a case. The checkpoint is undefined where the folder has none. */
export type Recipe = (golden: Golden, loaded: LoadedCase | undefined) => Outcomes;

export function values(name: string, computed: ArrayLike<number>, skip?: ArrayLike<number>): Outcome {
  return { kind: "values", name, values: computed, ...(skip ? { skip } : {}) };
}

export function* inputs(golden: Golden, names: readonly string[]): Generator<Outcome> {
  for (const name of names) if (golden.has(name)) yield { kind: "input", name };
}

/** From every name that a tensor may have in files to its canonical one. */
function namesIn({ layout, config }: LoadedCase): Map<string, string> {
  const specs = (layout as Layout).tensors(config);
  return new Map(layout.prefixes.flatMap((prefix) => specs.map(({ name, canonical }) => [prefix + name, canonical])));
}

/** Every `grad.{tensor}` that the trainer has. */
export async function* gradients(golden: Golden, trainer: NativeTrainer, loaded: LoadedCase): Outcomes {
  const names = namesIn(loaded);
  for (const name of golden.arrays.keys()) {
    if (!name.startsWith("grad.")) continue;
    const canonical = names.get(name.slice("grad.".length));
    if (canonical !== undefined) yield values(name, await trainer.read("gradient", canonical));
  }
}

/** Skips every array of a group. */
export function* skipGroup(golden: Golden, group: string, reason: string): Generator<Outcome> {
  for (const name of golden.arrays.keys()) if (name.startsWith(`${group}.`)) yield { kind: "skipped", name, reason };
}
