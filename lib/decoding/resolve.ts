/** From what a caller writes (`"conv"`, or `{ rule: "conv", steps: 32 }`) to a policy and complete settings. */

import { unknownOption } from "../errors.js";
import type { Draw } from "../native/addon.js";
import { invalid, parseOptions, type Schedule, sharedOptions } from "./options.js";
import type { OwnOptions, Policy, PolicyDefinition } from "./policy.js";
import { policies } from "./registry.js";

/** A rule and its options. Options of another rule are refused by name. */
export interface DecodingOptions {
  /** Default: "conv". */
  rule?: string;
  steps?: number;
  tokensPerStep?: number;
  schedule?: Schedule;
  temperature?: number;
  topK?: number;
  topP?: number;
  blockLength?: number;
  guidance?: number;
  stopAtEos?: boolean;
  /** conv */
  kernel?: number;
  /** conv */
  multiplier?: number;
  /** conv */
  shape?: "tanh" | "linear" | "exponential";
  /** conv */
  form?: "confidence" | "ancestral";
  /** conv, ancestral form */
  candidates?: number;
  /** threshold */
  threshold?: number;
  /** ancestral */
  epsilon?: number;
}

/** A rule's name, or its name with options. */
export type Decoding = string | DecodingOptions;

export interface DecodingSettings {
  readonly rule: string;
  readonly policy: Policy;
  readonly draw: Draw;
  /** At most one of the two is set. */
  readonly steps?: number;
  readonly tokensPerStep?: number;
  readonly schedule: Schedule;
  readonly blockLength?: number;
  readonly guidance: number;
  readonly stopAtEos: boolean;
}

export const defaultRule = "conv";

function findPolicy(name: string): PolicyDefinition {
  const found = policies.find((policy) => policy.name === name);
  if (found) return found;
  throw unknownOption(
    name,
    policies.map((policy) => policy.name),
    "decoding rule",
  );
}

export function resolveDecoding(decoding: Decoding = {}): DecodingSettings {
  if (typeof decoding !== "string" && (typeof decoding !== "object" || decoding === null)) {
    throw invalid("decoding", decoding, "the name of a rule, or { rule, ...options }");
  }
  const { rule = defaultRule, ...given } = typeof decoding === "string" ? { rule: decoding } : decoding;
  if (typeof rule !== "string") throw invalid("decoding.rule", rule, "the name of a rule");
  const definition = findPolicy(rule);
  const options = parseOptions(
    given,
    { rule: ruleSpec, ...sharedOptions, ...definition.options },
    `decoding "${rule}"`,
  );
  return settingsOf(definition, options);
}

/** Only so that a misspelt "rule" is answered with "rule". */
const ruleSpec = { kind: "choice", default: "", choices: [], what: "" } as const;

function settingsOf(definition: PolicyDefinition, options: OwnOptions): DecodingSettings {
  const { steps, tokensPerStep } = options;
  if (steps !== undefined && tokensPerStep !== undefined) {
    throw invalid("decoding.tokensPerStep", tokensPerStep, "either steps or tokensPerStep");
  }
  const defaults = definition.defaults(options);
  const draw = drawOf((options["temperature"] as number | undefined) ?? defaults.temperature, options);
  const policy = definition.create(options, draw);
  refuseSteps(policy, options);
  const blockLength = (options["blockLength"] as number | undefined) ?? defaults.blockLength;
  return {
    rule: definition.name,
    policy,
    draw,
    schedule: options["schedule"] as Schedule,
    guidance: options["guidance"] as number,
    stopAtEos: options["stopAtEos"] as boolean,
    ...(steps === undefined ? {} : { steps: steps as number }),
    ...(tokensPerStep === undefined ? {} : { tokensPerStep: tokensPerStep as number }),
    ...(blockLength === undefined ? {} : { blockLength }),
  };
}

function drawOf(temperature: number, { topK, topP }: OwnOptions): Draw {
  const kind = temperature === 0 ? "argmax" : "gumbel";
  return { kind, temperature, topK: topK as number, topP: topP as number };
}

function refuseSteps(policy: Policy, { steps, tokensPerStep }: OwnOptions): void {
  if (policy.kind !== "closed" || !policy.adaptive) return;
  const expected = "no number of steps with this rule: it takes as many as the text needs";
  if (steps !== undefined) throw invalid("decoding.steps", steps, expected);
  if (tokensPerStep !== undefined) throw invalid("decoding.tokensPerStep", tokensPerStep, expected);
}
