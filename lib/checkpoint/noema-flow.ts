/** noema's own layout for TarFlowLM stacks. */

import type { JsonObject } from "../json.js";
import { isObject } from "../json.js";
import { blockTensors, headCount, WIDTH } from "./block.js";
import {
  badValue,
  boolean,
  type ConfigFile,
  type FlowConfig,
  type FlowKind,
  type FlowStage,
  integer,
  number,
  oneOf,
  optionalInteger,
  optionalNumber,
} from "./config.js";
import type { Layout, TensorSpec } from "./layout.js";

const kinds: readonly FlowKind[] = ["affine", "mixture-cdf", "mixture-rosenblatt"];
const directions = ["forward", "reverse"] as const;
/** Channels of a position, d * P: the grouped head's weights grow with its square. */
const CHANNELS = 4096;
const MAF = { min: 1, max: 4096 };
const MAF_FEATURES = { min: 1, max: 256 };
const READOUT = { min: 1, max: 1 << 16 };

function parseStage(config: ConfigFile, channels: number): FlowStage {
  return { ...parseCoupling(config, channels), ...parseReadout(config) };
}

function parseReadout(config: ConfigFile): Pick<FlowStage, "readoutHiddenSize" | "readoutAccuracy"> {
  const readoutHiddenSize = optionalInteger(config, "readout_hidden_size", READOUT);
  const readoutAccuracy = optionalNumber(config, "readout_accuracy", { min: 0, max: 1 });
  if (readoutHiddenSize === undefined) {
    if (readoutAccuracy === undefined) return {};
    throw badValue(config, "readout_accuracy", "nothing without readout_hidden_size");
  }
  return { readoutHiddenSize, ...(readoutAccuracy !== undefined && { readoutAccuracy }) };
}

function parseCoupling(config: ConfigFile, channels: number): FlowStage {
  const kind = oneOf(config, "kind", kinds);
  const direction = oneOf(config, "direction", directions);
  const numLayers = integer(config, "num_hidden_layers", { min: 1, max: 1024 });
  if (kind === "affine") return { kind, direction, numLayers };
  if (kind === "mixture-rosenblatt") {
    const numComponents = optionalInteger(config, "num_components", { min: 1, max: 1 << 24 });
    return { kind, direction, numLayers, ...(numComponents !== undefined && { numComponents }) };
  }
  if (channels < 2) throw badValue(config, "kind", "another kind: mixture-cdf needs at least 2 channels per position");
  const numComponents = integer(config, "num_components", MAF);
  const mafHiddenSize = integer(config, "maf_hidden_size", MAF);
  return {
    kind,
    direction,
    numLayers,
    numComponents,
    mafHiddenSize,
    mafFeatures: integer(config, "maf_features", MAF_FEATURES),
  };
}

function parseFlows(config: ConfigFile, channels: number): FlowStage[] {
  const list = config.values.flows;
  if (!Array.isArray(list) || list.length < 1 || list.length > 64 || !list.every(isObject))
    throw badValue(config, "flows", "an array of 1 to 64 objects");
  return list.map((values, l) => parseStage({ path: `${config.path}: flows[${l}]`, values }, channels));
}

function parse(config: ConfigFile): FlowConfig {
  const vocabSize = integer(config, "vocab_size", { min: 2, max: 1 << 24 });
  const hiddenSize = integer(config, "hidden_size", WIDTH);
  const numHeads = headCount(config, hiddenSize);
  const latentSize = integer(config, "latent_size", { min: 1, max: CHANNELS });
  const patchSize = integer(config, "patch_size", { min: 1, max: Math.floor(CHANNELS / latentSize) });
  const eosTokenId = optionalInteger(config, "eos_token_id", { min: 0, max: vocabSize - 1 });
  return {
    layout: "noema-flow",
    ...{ vocabSize, latentSize, patchSize, hiddenSize, numHeads },
    intermediateSize: integer(config, "intermediate_size", { min: 1, max: 1 << 22 }),
    ropeTheta: number(config, "rope_theta", { min: 1, max: 1e12 }),
    rmsNormEps: number(config, "rms_norm_eps", { min: 1e-12, max: 0.1 }),
    maxPositions: integer(config, "max_position_embeddings", { min: 1, max: 1 << 24 }),
    channelMix: boolean(config, "channel_mix"),
    prefixConditioning: boolean(config, "prefix_conditioning"),
    ...(eosTokenId !== undefined && { eosTokenId }),
    flows: parseFlows(config, latentSize * patchSize),
  };
}

/** A small network for one position of a state; its hidden units belong to the position's tokens, P times as many. */
function readoutTensors(
  { readoutHiddenSize: M }: FlowStage,
  { latentSize: d, patchSize: P, vocabSize }: FlowConfig,
): [string, number[]][] {
  if (M === undefined) return [];
  return [
    ["readout.input.weight", [P * M, d * P]],
    ["readout.input.bias", [P * M]],
    ["readout.output.weight", [vocabSize, M]],
  ];
}

/** What makes the coupling's parameters from the body's features. */
function headTensors(stage: FlowStage, config: FlowConfig): [string, number[]][] {
  const { hiddenSize: C, latentSize: d, patchSize: P, vocabSize } = config;
  const c = d * P;
  const K = stage.numComponents;
  if (stage.kind === "mixture-cdf") {
    const M = stage.mafHiddenSize!;
    const E = stage.mafFeatures!;
    return [
      ["maf.embed.weight", [c - 1, E, 3]],
      ["maf.embed.bias", [c - 1, E]],
      ["maf.context.weight", [c, M, C]],
      ["maf.context.bias", [c, M]],
      ["maf.features.weight", [c, M, c - 1, E]],
      ["maf.out.weight", [c, 3 * K!, M]],
      ["maf.out.bias", [c, 3 * K!]],
    ];
  }
  const rows = stage.kind === "affine" ? 2 * c : P * (K ?? vocabSize);
  const head: [string, number[]][] = [
    ["head.weight", [rows, C]],
    ["head.bias", [rows]],
  ];
  if (stage.kind === "affine" || K === undefined) return head;
  return [...head, ["components.mean", [K, d]], ["components.log_sigma", [K]]];
}

function stageTensors(l: number, stage: FlowStage, config: FlowConfig): TensorSpec[] {
  const { hiddenSize: C, intermediateSize: F, latentSize, patchSize } = config;
  const c = latentSize * patchSize;
  const at = `flows.${l}.`;
  const own = ([name, shape]: [string, number[]]) => ({ name: at + name, canonical: at + name, shape });
  const entrance: [string, number[]][] = [
    ["start", [c]],
    ["input.weight", [C, c]],
    ["input.bias", [C]],
  ];
  if (config.prefixConditioning) entrance.push(["context.weight", [C, c]]);
  const blocks = Array.from({ length: stage.numLayers }, (_, i) => blockTensors(`${at}layers.${i}.`, { C, F }));
  const rest: [string, number[]][] = [
    ["norm.weight", [C]],
    ...headTensors(stage, config),
    ...readoutTensors(stage, config),
  ];
  return [...entrance.map(own), ...blocks.flat(), ...rest.map(own)];
}

function tensors(config: FlowConfig): TensorSpec[] {
  const { vocabSize, latentSize } = config;
  const codebook = [
    { name: "codebook.mean", canonical: "codebook.mean", shape: [vocabSize, latentSize] },
    { name: "codebook.log_sigma", canonical: "codebook.log_sigma", shape: [vocabSize] },
  ];
  return [...codebook, ...config.flows.flatMap((stage, l) => stageTensors(l, stage, config))];
}

function stageToJson(stage: FlowStage): JsonObject {
  const { kind, direction, numLayers, numComponents, mafHiddenSize, mafFeatures, readoutHiddenSize, readoutAccuracy } =
    stage;
  return {
    ...{ kind, direction, num_hidden_layers: numLayers },
    ...(numComponents !== undefined && { num_components: numComponents }),
    ...(mafHiddenSize !== undefined && { maf_hidden_size: mafHiddenSize }),
    ...(mafFeatures !== undefined && { maf_features: mafFeatures }),
    ...(readoutHiddenSize !== undefined && { readout_hidden_size: readoutHiddenSize }),
    ...(readoutAccuracy !== undefined && { readout_accuracy: readoutAccuracy }),
  };
}

function toJson(config: FlowConfig): JsonObject {
  return {
    model_type: "noema-flow",
    vocab_size: config.vocabSize,
    latent_size: config.latentSize,
    patch_size: config.patchSize,
    hidden_size: config.hiddenSize,
    num_attention_heads: config.numHeads,
    intermediate_size: config.intermediateSize,
    rope_theta: config.ropeTheta,
    rms_norm_eps: config.rmsNormEps,
    max_position_embeddings: config.maxPositions,
    channel_mix: config.channelMix,
    prefix_conditioning: config.prefixConditioning,
    ...(config.eosTokenId !== undefined && { eos_token_id: config.eosTokenId }),
    flows: config.flows.map(stageToJson),
  };
}

export const noemaFlow: Layout<FlowConfig> = {
  name: "noema-flow",
  family: "flow",
  prefixes: [""],
  anchor: "codebook.mean",
  buffers: /(?!)/,
  sniff: (values) => values.model_type === "noema-flow",
  parse,
  tensors,
  config: toJson,
};
