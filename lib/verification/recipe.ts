/** How verification recomputes arrays: a recipe per kind of case, each yielding what it computed. */

import type { MaskedConfig } from "../checkpoint/config.js";
import type { Layout } from "../checkpoint/layout.js";
import type { NativeMaskedModel } from "../native/addon.js";
import type { Golden } from "./golden.js";

/** The checkpoint next to the expectations. */
export interface LoadedCase {
  readonly native: NativeMaskedModel;
  readonly config: MaskedConfig;
  readonly layout: Layout;
}

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

/** Skips every array of a group. */
export function* skipGroup(golden: Golden, group: string, reason: string): Generator<Outcome> {
  for (const name of golden.arrays.keys()) if (name.startsWith(`${group}.`)) yield { kind: "skipped", name, reason };
}
