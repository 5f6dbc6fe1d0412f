/** The stack that a fresh flow model is to have. */

import type { FlowConfig, FlowStage } from "../../checkpoint/config.js";
import { noemaFlow } from "../../checkpoint/noema-flow.js";
import { checkNames, invalid } from "../../decoding/options.js";
import { NoemaError } from "../../errors.js";
import { isObject } from "../../json.js";
import type { ReadoutMonitors } from "../metrics.js";
import type { ModelShape } from "../options.js";

/** Of a fresh stack. With `init` only `flows` are new: the other settings are the checkpoint's, and may be left out. */
export interface FlowShape {
  /** d, channels per token. Default: 8. */
  latentSize?: number;
  /** P, tokens per position. Default: 1. */
  patchSize?: number;
  /**
   * After every flow but the last, a position's c = d * P channels are put in another order, the even ones first:
   * scalars of different tokens of a patch become neighbours (tarflowlm.md section 4). Default: false.
   */
  channelMix?: boolean;
  /**
   * Whether texts can be continued: tokens in front are given to every flow, and only those after them are modelled
   * (section 6.2). Without it the model writes whole texts. Default: true.
   */
  prefixConditioning?: boolean;
  /** The first is nearest the data. */
  flows: FlowStage[];
}

const names = ["latentSize", "patchSize", "channelMix", "prefixConditioning", "flows"];

const stageSizes = ["numLayers", "numComponents", "mafHiddenSize", "mafFeatures"];
const stageNames = ["kind", "direction", ...stageSizes];

/** Types and names; sizes are checked where they meet the others. */
export function checkFlowShape(flow: unknown): asserts flow is FlowShape {
  const wrong = (expected: string) => new NoemaError("ERR_INVALID_ARGUMENT", `train: flow: expected ${expected}`);
  if (!isObject(flow)) throw wrong("an object with the flows");
  checkNames(flow, names, "flow");
  if (!Array.isArray(flow.flows) || !flow.flows.every(isObject)) throw wrong('"flows": an array of objects');
  if (flow.flows.some((stage) => "readoutHiddenSize" in stage))
    throw wrong('"flows" without "readoutHiddenSize": readouts are trained after them (readouts)');
  checkNumbers(flow, ["latentSize", "patchSize"], "flow");
  for (const [l, stage] of flow.flows.entries()) {
    checkNames(stage, stageNames, `flow.flows[${l}]`);
    checkNumbers(stage, stageSizes, `flow.flows[${l}]`);
  }
}

function checkNumbers(given: Record<string, unknown>, names: readonly string[], place: string): void {
  for (const name of names) {
    const value = given[name];
    if (value !== undefined && typeof value !== "number") throw invalid(`${place}.${name}`, value, "a number");
  }
}

/** What the run's other options say of the model. */
export interface FlowSizes {
  shape: ModelShape;
  vocabSize: number;
  eosTokenId: number | undefined;
  /** Tokens of a sequence. */
  length: number;
}

export function flowConfig(flow: FlowShape, { shape, vocabSize, eosTokenId, length }: FlowSizes): FlowConfig {
  const { latentSize = 8, patchSize = 1, channelMix = false, prefixConditioning = true, flows } = flow;
  return checked({
    layout: "noema-flow",
    ...{ vocabSize, latentSize, patchSize, channelMix, prefixConditioning, flows },
    ...{ hiddenSize: shape.hidden, numHeads: shape.heads, intermediateSize: shape.intermediate },
    ...{ ropeTheta: shape.ropeTheta, rmsNormEps: 1e-5, maxPositions: Math.floor(length / patchSize) },
    ...(eosTokenId !== undefined && { eosTokenId }),
  });
}

/** A stack with more flows on its noise side. Its readouts are left behind: what was the last state may be mixed now. */
export function extended(config: FlowConfig, { flows, ...settings }: FlowShape): FlowConfig {
  for (const [name, value] of Object.entries(settings)) {
    const own = config[name as keyof typeof settings];
    if (value !== undefined && value !== own)
      throw invalid(`flow.${name}`, value, `${own}, as the stack of init has it`);
  }
  const own = unmeasured(config).flows.map(({ readoutHiddenSize: _, ...stage }) => stage);
  return checked({ ...config, flows: [...own, ...flows] });
}

/** The same stack with a readout of every state above the data's. Those that it has must be of that width. */
export function withReadouts(config: FlowConfig, readoutHiddenSize: number): FlowConfig {
  const other = config.flows.find(({ readoutHiddenSize: own = readoutHiddenSize }) => own !== readoutHiddenSize);
  if (other) {
    const message = `train: readouts is ${readoutHiddenSize}, but those of init have width ${other.readoutHiddenSize}`;
    throw new NoemaError("ERR_INVALID_ARGUMENT", message, { readouts: readoutHiddenSize });
  }
  return checked({ ...config, flows: config.flows.map((stage) => ({ ...stage, readoutHiddenSize })) });
}

/** A stack whose weights will change: how well its readouts read is not known any more. */
export function unmeasured(config: FlowConfig): FlowConfig {
  return { ...config, flows: config.flows.map(({ readoutAccuracy: _, ...stage }) => stage) };
}

/** With how well every level is read, from level 1 on. */
export function measured(config: FlowConfig, { accuracy }: ReadoutMonitors): FlowConfig {
  return { ...config, flows: config.flows.map((stage, l) => ({ ...stage, readoutAccuracy: accuracy[l]! })) };
}

/** Refuses sizes that do not fit together, as it would when the checkpoint is read. */
function checked(config: FlowConfig): FlowConfig {
  return noemaFlow.parse({ path: "flow", values: noemaFlow.config(config) });
}
