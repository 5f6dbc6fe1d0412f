/** Every checkpoint layout, one line each. */

import { NoemaError } from "../errors.js";
import { describe } from "../json.js";
import type { AutoregressiveConfig, ConfigFile, FlowConfig, MaskedConfig, ThoughtConfig } from "./config.js";
import { dream } from "./dream.js";
import type { Layout } from "./layout.js";
import { llada } from "./llada.js";
import { mdlm } from "./mdlm.js";
import { noemaAutoregressive } from "./noema-autoregressive.js";
import { noemaFlow } from "./noema-flow.js";
import { noemaThought } from "./noema-thought.js";

export const layouts: readonly Layout[] = [
  llada, //
  dream,
  mdlm,
  noemaFlow,
  noemaAutoregressive,
  noemaThought,
];

/** Which kind of config each describes. */
interface LayoutsByName {
  llada: Layout<MaskedConfig>;
  dream: Layout<MaskedConfig>;
  mdlm: Layout<MaskedConfig>;
  "noema-flow": Layout<FlowConfig>;
  "noema-autoregressive": Layout<AutoregressiveConfig>;
  "noema-thought": Layout<ThoughtConfig>;
}

/** The layout that recognises this config.json. */
export function findLayout({ path, values }: ConfigFile): Layout {
  const layout = layouts.find((candidate) => candidate.sniff(values));
  if (layout !== undefined) return layout;
  const known = layouts.map(({ name }) => name).join(", ");
  const message = `${path}: no layout reads this model: "model_type" is ${describe(values.model_type)}; known: ${known}`;
  throw new NoemaError("ERR_UNSUPPORTED", message, { path, modelType: values.model_type });
}

/** The layout of this name; it exists, the name's type says so. */
export function layoutNamed<Name extends keyof LayoutsByName>(name: Name): LayoutsByName[Name] {
  const layout = layouts.find((candidate) => candidate.name === name) as LayoutsByName[Name] | undefined;
  if (layout === undefined) throw new NoemaError("ERR_INVALID_ARGUMENT", `there is no checkpoint layout "${name}"`);
  return layout;
}
