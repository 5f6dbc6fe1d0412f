/** config.json: reading it from an untrusted folder, and getters whose refusals name file, key, found and expected. */

import { NoemaError } from "../errors.js";
import { readLimited } from "../files.js";
import { describe, type JsonObject, parseObject } from "../json.js";

/** A transformer over tokens: what the families that predict tokens have in common. */
export interface TransformerConfig {
  /** Rows of the embedding and of the head: ids are below this. */
  vocabSize: number;
  /** C = numHeads * D. */
  hiddenSize: number;
  numLayers: number;
  numHeads: number;
  /** Divides numHeads. */
  numKvHeads: number;
  /** F. */
  intermediateSize: number;
  maxPositions: number;
  ropeTheta: number;
  rmsNormEps: number;
  eosTokenId?: number;
  tiedEmbeddings: boolean;
}

/** A masked-diffusion transformer, whatever the layout that it was stored in. */
export interface MaskedConfig extends TransformerConfig {
  layout: "llada" | "dream" | "mdlm";
  maskTokenId: number;
  padTokenId?: number;
  /** Queries, keys and values have biases. */
  qkvBias?: true;
  /** A position's output predicts the token of the next one. */
  shifted?: true;
  /** Width of the vector that modulates a DiT's blocks; left out: a Llama's. */
  conditionSize?: number;
}

/** The same blocks under a causal mask: a language model that goes from left to right, what the others are measured against. */
export interface AutoregressiveConfig extends TransformerConfig {
  layout: "noema-autoregressive";
  /** Stands in front of every window, so that its first token is predicted, too. */
  bosTokenId: number;
}

export type FlowKind = "affine" | "mixture-cdf" | "mixture-rosenblatt";

/** One flow of a stack: a coupling, and the transformer that makes its parameters. */
export interface FlowStage {
  kind: FlowKind;
  /** In which order it takes the positions. */
  direction: "forward" | "reverse";
  numLayers: number;
  /** K. Left out in a mixture-rosenblatt flow: the codebook. */
  numComponents?: number;
  /** Of mixture-cdf's grouped head: M and E. */
  mafHiddenSize?: number;
  mafFeatures?: number;
  /** Width of the readout of its output, h^(l+1); left out: that state has none. */
  readoutHiddenSize?: number;
  /** Share of held-out tokens that the readout reads right, 0 .. 1, as last measured in its training; left out: not measured. */
  readoutAccuracy?: number;
}

/** A stack of autoregressive flows over a codebook of token densities (TarFlowLM). */
export interface FlowConfig {
  layout: "noema-flow";
  vocabSize: number;
  /** d. */
  latentSize: number;
  /** P: tokens per position. */
  patchSize: number;
  hiddenSize: number;
  numHeads: number;
  intermediateSize: number;
  ropeTheta: number;
  rmsNormEps: number;
  /** Positions, of P tokens each, prefix included. */
  maxPositions: number;
  channelMix: boolean;
  prefixConditioning: boolean;
  eosTokenId?: number;
  /** The first is nearest the data. */
  flows: FlowStage[];
}

/** How a sequence's latents are fitted: the fast loop's settings. */
export interface Inference {
  steps: number;
  /** The rates that the schedule goes between. */
  learningRate: [number, number];
  schedule: "linear" | "cosine" | "constant";
  /** Where the posterior's log-variance starts. */
  logVarianceInit: number;
  /** A draw for every step, or one for all. */
  noise: "resample" | "shared";
  /** The log-variance stays where it started. */
  constantLogVariance: boolean;
}

/** A decoder guided by latents that are fitted to each sequence (Latent Thought Models). */
export interface ThoughtConfig extends Omit<TransformerConfig, "numKvHeads"> {
  layout: "noema-thought";
  /** Keys that a position sees, itself included. */
  attentionWindow: number;
  /** N, of all layers together. */
  numLatents: number;
  /** Begins every sequence, so that its first token is predicted, too. */
  bosTokenId: number;
  inference: Inference;
}

export type ModelConfig = MaskedConfig | FlowConfig | AutoregressiveConfig | ThoughtConfig;

/** Every family's config. */
export interface FamilyConfigs {
  masked: MaskedConfig;
  flow: FlowConfig;
  autoregressive: AutoregressiveConfig;
  thought: ThoughtConfig;
}
export type Family = keyof FamilyConfigs;
export const families: readonly Family[] = ["masked", "flow", "autoregressive", "thought"];

export interface ConfigFile {
  readonly path: string;
  readonly values: Readonly<JsonObject>;
}

/** Published ones are a few KiB. */
const CONFIG_LIMIT = 1 << 20;

export async function readConfig(path: string): Promise<ConfigFile> {
  const bytes = await readLimited(path, CONFIG_LIMIT, "ERR_BAD_CHECKPOINT");
  return { path, values: parseObject(bytes, path, "ERR_BAD_CHECKPOINT") };
}

/** The refusal of a key's value. */
export function badValue({ path, values }: ConfigFile, key: string, expected: string): NoemaError {
  const found = Object.hasOwn(values, key) ? describe(values[key]) : "nothing";
  return new NoemaError("ERR_BAD_CHECKPOINT", `${path}: "${key}": found ${found}, expected ${expected}`, {
    path,
    key,
    found: values[key],
  });
}

/** The key's own value; null and a missing key are both undefined. */
function given({ values }: ConfigFile, key: string): unknown {
  return Object.hasOwn(values, key) ? (values[key] ?? undefined) : undefined;
}

export interface Range {
  min: number;
  max: number;
}

export function integer(config: ConfigFile, key: string, range: Range): number {
  const value = optionalInteger(config, key, range);
  if (value === undefined) throw badValue(config, key, `an integer ${range.min} .. ${range.max}`);
  return value;
}

/** Undefined when the key is missing or null. */
export function optionalInteger(config: ConfigFile, key: string, { min, max }: Range): number | undefined {
  const value = given(config, key);
  if (value === undefined) return undefined;
  if (Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max) return value as number;
  throw badValue(config, key, `an integer ${min} .. ${max}`);
}

export function number(config: ConfigFile, key: string, range: Range): number {
  const value = optionalNumber(config, key, range);
  if (value === undefined) throw badValue(config, key, `a number ${range.min} .. ${range.max}`);
  return value;
}

/** Undefined when the key is missing or null. */
export function optionalNumber(config: ConfigFile, key: string, { min, max }: Range): number | undefined {
  const value = given(config, key);
  if (value === undefined) return undefined;
  if (typeof value === "number" && value >= min && value <= max) return value;
  throw badValue(config, key, `a number ${min} .. ${max}`);
}

/** One of these words. */
export function oneOf<T extends string>(config: ConfigFile, key: string, names: readonly T[]): T {
  const value = given(config, key);
  const found = names.find((name) => name === value);
  if (found !== undefined) return found;
  throw badValue(config, key, `one of ${names.map((name) => `"${name}"`).join(", ")}`);
}

export function boolean(config: ConfigFile, key: string): boolean {
  const value = given(config, key);
  if (typeof value === "boolean") return value;
  throw badValue(config, key, "true or false");
}

/** The key must say what the layout does; with `absent`, saying nothing (or null) is as good. */
export function requires(config: ConfigFile, key: string, wanted: string | number | boolean, absent = false): void {
  const value = given(config, key);
  if (value === wanted || (absent && value === undefined)) return;
  throw badValue(config, key, `${JSON.stringify(wanted)}, all that this layout does`);
}
