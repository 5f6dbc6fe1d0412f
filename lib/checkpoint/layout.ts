/** What a checkpoint layout is: how one kind of published model names its settings and its tensors. */

import type { JsonObject } from "../json.js";
import type { ConfigFile, Family, ModelConfig } from "./config.js";

export interface TensorSpec {
  /** Within the files, without the layout's prefix. */
  name: string;
  /** Within noema: the same for every layout. */
  canonical: string;
  shape: number[];
}

export interface Layout<Config extends ModelConfig = ModelConfig> {
  readonly name: Config["layout"];
  readonly family: Family;
  /** In front of every tensor's name; writers differ. The first is written; the one in use is told by `anchor`. */
  readonly prefixes: readonly string[];
  /** A tensor that every file of this layout has, without prefix. */
  readonly anchor: string;
  /** Tensors that a writer may have saved but that are computed, not learned. */
  readonly buffers: RegExp;
  sniff(values: Readonly<JsonObject>): boolean;
  /** Refuses what is malformed, out of range, or asks for something that this layout does not do. */
  parse(config: ConfigFile): Config;
  tensors(config: Config): TensorSpec[];
  /** The config.json to write: `parse` of it gives the same config. */
  config(config: Config): JsonObject;
}
