/** The options of a training run: one table from which checks, the command line's flags and the saved state's comparison follow. */

import { type Family, families } from "../checkpoint/config.js";
import { checkNames, checkSignal } from "../decoding/options.js";
import { type Decoding, resolveDecoding } from "../decoding/resolve.js";
import { NoemaError, unknownOption } from "../errors.js";
import { describe, isObject } from "../json.js";
import { checkFlowShape, type FlowShape } from "./flow/shape.js";
import { timeSamplings } from "./masked/corruption.js";
import { scheduleShapes } from "./schedule.js";
import { checkThoughtShape, type ThoughtShape } from "./thought/shape.js";

interface NumberEntry {
  kind: "integer" | "number";
  default: number;
  least: number;
  most: number;
  /** Decides what the run computes: a resumed run must agree. */
  fixed: boolean;
  help: string;
}

interface ChoiceEntry {
  kind: "choice";
  default: string;
  choices: readonly string[];
  fixed: boolean;
  help: string;
}

export type OptionEntry = NumberEntry | ChoiceEntry;

type Limits = readonly [least: number, most: number];
const MANY = 2 ** 31 - 1;

function entry<K extends "integer" | "number">(kind: K, fixed: boolean) {
  return (value: number, [least, most]: Limits, help: string) =>
    ({ kind, default: value, least, most, fixed, help }) as const;
}
function choice<const C extends readonly string[]>(choices: C, value: C[number], help: string) {
  return { kind: "choice", choices, default: value, fixed: true, help } as const;
}

const integer = entry("integer", true);
const number = entry("number", true);
const freeInteger = entry("integer", false);

/** Every numeric and choice option, with its default. */
export const optionTable = {
  steps: integer(1000, [1, MANY], "optimiser steps of the whole run; the schedule ends there"),
  stopAt: freeInteger(0, [0, MANY], "stop (and save) at this step, to go on later; 0: at the last"),
  batch: integer(32, [1, 65536], "sequences per optimiser step"),
  microBatch: integer(
    0,
    [0, 65536],
    "sequences per native call, gradients are accumulated; 0: as many as 4096 positions",
  ),
  length: integer(256, [2, 65536], "positions per sequence"),
  rate: number(1e-3, [0, 10], "peak learning rate"),
  warmup: integer(100, [0, MANY], "steps of linear warm-up"),
  schedule: choice(scheduleShapes, "cosine", "what the learning rate does after the warm-up"),
  floor: number(0.1, [0, 1], "final learning rate, as a fraction of the peak"),
  decay: integer(0, [0, MANY], "steps of the final fall of the stable schedule; 0: a fifth of the run"),
  beta1: number(0.9, [0, 0.9999999], "AdamW: decay of the gradient's mean"),
  beta2: number(0.95, [0, 0.9999999], "AdamW: decay of the gradient's mean square"),
  epsilon: number(1e-8, [1e-30, 1], "AdamW: added to the root of the mean square"),
  weightDecay: number(0.1, [0, 10], "decoupled weight decay of matrices"),
  clip: number(1, [0, 1e9], "largest gradient norm; 0: no clipping"),
  ema: number(0.999, [0, 0.9999999], "decay of the moving average of the weights; 0: none"),
  times: choice(timeSamplings, "low-variance", "masked models: how the times of a batch are drawn"),
  objective: choice(
    ["nelbo", "r2ft"] as const,
    "nelbo",
    "masked models: the bound, or rejective fine-tuning of one that was trained (init), which unlearns repeating itself",
  ),
  betaW: number(1, [0, 100], "r2ft: weight of the text's log-probability in the margin"),
  betaL: number(1, [0, 100], "r2ft: weight of the repetition's"),
  betaA: number(0.1, [0, 100], "r2ft: weight of the text's log-probability by itself, the anchor"),
  gamma: number(0, [-100, 100], "r2ft: the margin wanted"),
  phraseLimit: integer(15, [2, 1024], "r2ft: what is repeated is shorter than so many tokens"),
  reconstruction: number(2, [1, 100], "flows: weight of the reconstruction at the start; it falls to 1"),
  beginnings: number(
    0,
    [0, 0.99],
    "flows: share of the stack's beginnings, each judged as a model of its own, in the objective",
  ),
  reconstructionHalf: integer(1000, [1, MANY], "flows: steps in which what it has above 1 halves"),
  codebook: choice(
    ["trained", "fixed"] as const,
    "trained",
    "flows: whether the means of the tokens' latents are trained, or stay where they began; with beginnings they may come to lie so close that tokens are confused",
  ),
  sigmaFloor: number(0.02, [0, 1], "flows: least deviation of a token's latents; the codebook's root mean square is 1"),
  sigmaCeiling: number(
    0,
    [0, 1],
    "flows: largest deviation of a token's latents, so that tokens stay told apart under the encoder's own noise; 0: any",
  ),
  prefixes: number(0.5, [0, 1], "flows: share of the native calls that are given a prefix of random length"),
  stage: integer(0, [0, 63], "flows: train this one and those after it; above 0 the codebook keeps its values, too"),
  readouts: integer(
    0,
    [0, 65536],
    "flows: train readouts of this hidden width, for every state above the data's, and nothing else; again whenever the flows were trained further. 0: train the flows",
  ),
  trajectory: choice(
    ["last", "all"] as const,
    "last",
    "thought models: whether the decoder learns from the fitted draw, or from every step of the fast loop as well",
  ),
  fitSteps: integer(
    0,
    [0, 65536],
    "thought models: most steps of the fast loop in training (held-out text gets the model's own); 0: the model's own",
  ),
  klWarmup: integer(
    0,
    [0, MANY],
    "thought models: steps in which the divergence's weight in the fast loop rises to 1; until then thoughts may say more than they are worth, and the decoder learns to listen",
  ),
  precision: choice(["bf16", "f32"] as const, "bf16", "of matrix products; weights and optimiser are f32"),
  seed: integer(0, [0, Number.MAX_SAFE_INTEGER], "of the initial weights, the order of the data and the masks"),
  evaluateEvery: freeInteger(250, [0, MANY], "steps between held-out evaluations; 0: never"),
  evaluateSequences: freeInteger(128, [1, MANY], "held-out sequences to evaluate"),
  evaluateDraws: freeInteger(4, [1, 1024], "corruptions of each held-out sequence"),
  saveEvery: freeInteger(250, [1, MANY], "steps between saved states"),
  sampleEvery: freeInteger(0, [0, MANY], "steps between sample texts; 0: never"),
  sampleLength: freeInteger(128, [1, 65536], "tokens of a sample text"),
} as const satisfies Record<string, OptionEntry>;

export type OptionName = keyof typeof optionTable;
export const optionNames = Object.keys(optionTable) as OptionName[];

/** The value of every option of the table. */
export type TrainSettings = {
  [K in OptionName]: (typeof optionTable)[K] extends { choices: readonly (infer C)[] } ? C : number;
};

/** The network of a fresh model. */
export interface ModelShape {
  hidden: number;
  layers: number;
  heads: number;
  kvHeads: number;
  intermediate: number;
  ropeTheta: number;
}

/** A text file of the corpus; sequences are drawn from the files in proportion to weight * tokens. */
export interface WeightedFile {
  path: string;
  weight?: number;
}

/** What `train` takes: the table's options, and these. */
export interface TrainOptions extends Partial<TrainSettings> {
  /** The run's folder: checkpoint, state, metrics and curve. If it has a state, the run goes on from there. */
  run: string;
  corpus: readonly (string | WeightedFile)[];
  /** Text for held-out evaluation; never trained on. */
  heldOut?: readonly string[];
  /** A tokenizer.json; not needed with `init`. */
  tokenizer?: string;
  /** A checkpoint folder to start from instead of fresh weights. */
  init?: string;
  /** Of the model. Default: that of `init`, else "flow" with `flow`, "thought" with `thought`, else "masked". */
  family?: Family;
  shape?: Partial<ModelShape>;
  /** A stack of flows; with `init`, a checkpoint of one, `flows` are put on top of its own. */
  flow?: FlowShape;
  /** Latents and fast loop of a fresh thought model. */
  thought?: ThoughtShape;
  samplePrompts?: readonly string[];
  /** How sample texts are written. Default: the rule "conv" at temperature 0.8. */
  sampleDecoding?: Decoding | undefined;
  /** Where tokenised text is kept between runs. Default: in the run's folder. */
  cache?: string;
  /** Fixed options that may differ from the saved state's. */
  changes?: readonly string[];
  signal?: AbortSignal | undefined;
}

export const shapeDefaults: ModelShape = {
  hidden: 256,
  layers: 8,
  heads: 4,
  kvHeads: 0,
  intermediate: 0,
  ropeTheta: 10_000,
};
const shapeNames = Object.keys(shapeDefaults);

const otherNames = [
  "run",
  "corpus",
  "heldOut",
  "tokenizer",
  "init",
  "family",
  "shape",
  "flow",
  "thought",
  "samplePrompts",
  "sampleDecoding",
  "cache",
  "changes",
  "signal",
];

/** All options with their defaults filled in; ERR_UNKNOWN_OPTION or ERR_INVALID_ARGUMENT naming the first that is wrong. */
export function resolveOptions(options: TrainOptions): TrainSettings {
  const allowed = [...optionNames, ...otherNames];
  checkNames(options, allowed, "train");
  checkOthers(options);
  for (const name of options.changes ?? [])
    if (!changeable.includes(name)) throw unknownOption(name, changeable, "change");
  const trajectory = options.thought?.preset === "reproduce-release" ? "all" : "last";
  const defaults: Partial<TrainSettings> = { trajectory };
  const settings = Object.fromEntries(
    optionNames.map((name) => [name, checked(name, options[name] ?? defaults[name] ?? optionTable[name].default)]),
  ) as TrainSettings;
  const { sigmaFloor, sigmaCeiling } = settings;
  if (sigmaCeiling > 0 && sigmaCeiling < sigmaFloor)
    throw wrong("sigmaCeiling", sigmaCeiling, `0, or at least sigmaFloor (${sigmaFloor})`);
  return completed(settings);
}

export const fixedNames: readonly OptionName[] = optionNames.filter((name) => optionTable[name].fixed);
/** What `changes` may name. */
export const changeable: readonly string[] = [...fixedNames, "corpus"];

/** Options that stand for others get their values: a state then holds what was really done. */
function completed(settings: TrainSettings): TrainSettings {
  const microBatch = settings.microBatch || Math.max(1, Math.floor(4096 / settings.length));
  return {
    ...settings,
    microBatch: Math.min(microBatch, settings.batch),
    stopAt: Math.min(settings.stopAt || settings.steps, settings.steps),
  };
}

function checked(name: OptionName, value: unknown): number | string {
  const rule: OptionEntry = optionTable[name];
  if (allows(rule, value)) return value;
  if (rule.kind === "choice" && typeof value === "string") throw unknownOption(value, rule.choices, name);
  throw wrong(name, value, expectedBy(rule));
}

/** Whether an option may have this value. */
export function allows(rule: OptionEntry, value: unknown): value is number | string {
  if (rule.kind === "choice") return rule.choices.includes(value as string);
  const fits = typeof value === "number" && value >= rule.least && value <= rule.most;
  return fits && (rule.kind === "number" || Number.isInteger(value));
}

/** What an option may be, in words. */
export function expectedBy(rule: OptionEntry): string {
  if (rule.kind === "choice") return `one of ${rule.choices.join(", ")}`;
  return `${rule.kind === "integer" ? "an integer" : "a number"} ${rule.least} .. ${rule.most}`;
}

/** They may come from a JSON file, whatever their types say here. */
function checkOthers(options: TrainOptions): void {
  const { run, corpus, shape, init, tokenizer, signal } = options;
  if (!isPath(run)) throw wrong("run", run, "the path of a folder");
  if (!Array.isArray(corpus) || corpus.length === 0) throw wrong("corpus", corpus, "at least one text file");
  for (const [i, file] of corpus.entries())
    if (!isPath(file) && !isWeightedFile(file)) throw wrong(`corpus[${i}]`, file, "a path, or { path, weight }");
  for (const name of ["tokenizer", "init", "cache"] as const)
    if (options[name] !== undefined && !isPath(options[name])) throw wrong(name, options[name], "a path");
  for (const name of ["heldOut", "samplePrompts", "changes"] as const)
    if (options[name] !== undefined && !isTexts(options[name])) throw wrong(name, options[name], "a list of strings");
  checkSignal(signal);
  resolveDecoding(options.sampleDecoding);
  if (init === undefined && tokenizer === undefined)
    throw wrong("tokenizer", tokenizer, "the path of a tokenizer.json (or init, a checkpoint)");
  if (init !== undefined && shape !== undefined) throw wrong("shape", shape, "nothing, for init brings its own");
  if (shape !== undefined) checkShape(shape);
  if (options.flow !== undefined) checkFlowShape(options.flow);
  if (options.thought !== undefined) checkThoughtShape(options.thought);
  if (options.readouts && (init === undefined || options.flow !== undefined))
    throw wrong("readouts", options.readouts, "0, or init (a flow whose states they read) and no flow");
  if (options.readouts && options.stage) throw wrong("stage", options.stage, "0, for readouts train no flow");
  checkFamily(options);
  checkRejection(options);
}

/** It tells a model what not to write, which must have learned to write. */
function checkRejection({ objective, init, family, flow, thought }: TrainOptions): void {
  if (objective !== "r2ft") return;
  if (init === undefined) throw wrong("objective", objective, '"nelbo", or init, a trained masked model');
  if ((family !== undefined && family !== "masked") || flow !== undefined || thought !== undefined)
    throw wrong("objective", objective, '"nelbo": only masked models have another');
}

function checkFamily({ family, flow, thought, init }: TrainOptions): void {
  if (thought !== undefined && (init !== undefined || flow !== undefined))
    throw wrong("thought", thought, "nothing beside init or flow: it describes a fresh thought model");
  if (family === undefined) return;
  if (typeof family !== "string") throw wrong("family", family, `one of ${families.join(", ")}`);
  if (!families.includes(family)) throw unknownOption(family, families, "family");
  if (flow !== undefined && family !== "flow") throw wrong("family", family, '"flow", for flow describes such a model');
  if (thought !== undefined && family !== "thought")
    throw wrong("family", family, '"thought", for thought describes such a model');
  if (flow === undefined && family === "flow" && init === undefined)
    throw wrong("flow", flow, "the stack of a fresh flow model");
}

function isPath(value: unknown): value is string {
  return typeof value === "string" && value !== "";
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((text) => typeof text === "string");
}

function isWeightedFile(value: unknown): value is WeightedFile {
  if (!isObject(value) || !isPath(value.path)) return false;
  if (!Object.keys(value).every((name) => ["path", "weight"].includes(name))) return false;
  return value.weight === undefined || (typeof value.weight === "number" && value.weight > 0);
}

function checkShape(shape: unknown): void {
  if (!isObject(shape)) throw wrong("shape", shape, "an object");
  for (const [name, value] of Object.entries(shape)) {
    if (!shapeNames.includes(name)) throw unknownOption(name, shapeNames, "shape option");
    if (typeof value !== "number" || !(value >= 0)) throw wrong(`shape.${name}`, value, "a positive number");
  }
}

function wrong(name: string, value: unknown, expected: string): NoemaError {
  return new NoemaError("ERR_INVALID_ARGUMENT", `train: ${name} is ${describe(value)}, expected ${expected}`, {
    option: name,
    value,
  });
}

/** The head width nearest 64 that the sizes allow is the caller's business; SwiGLU's width is 8/3 C rounded up to 32. */
export function completeShape(shape: Partial<ModelShape> = {}): ModelShape {
  const full = { ...shapeDefaults, ...shape };
  return {
    ...full,
    kvHeads: full.kvHeads || full.heads,
    intermediate: full.intermediate || Math.ceil((full.hidden * 8) / 3 / 32) * 32,
  };
}
