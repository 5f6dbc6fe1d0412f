// What scripts/compare-text8.ts compares: models of the same blocks, layers, width, text and budget.
import { join } from "node:path";
import type { FlowKind, FlowStage, TrainOptions } from "../lib/index.js";
import type { Places } from "./comparison.js";

/** What all configurations share. */
export interface Setup extends Places {
  /** Holds train.txt, valid.txt and test.txt. */
  data: string;
  /** Tokens that every configuration is trained on. */
  tokens: number;
  width: number;
  heads: number;
  /** Of the flows of a stack, the first nearest the data; the other models have all of them in one. */
  layers: readonly [number, number, number];
  /** T. */
  length: number;
  batch: number;
  rate: number;
  seed: number;
  /** Windows of test.txt to judge by; 0: all of it. */
  windows: number;
}

/** "with its beginnings": jointly, and the stack's first flow and its first two as models of their own, too. */
export type Training = "jointly" | "flow by flow" | "with its beginnings";

/** Their share of the objective. */
const BEGINNINGS = 0.1;

export interface Configuration {
  /** The folder's name. */
  name: string;
  kind: "autoregressive" | FlowKind;
  training: Training;
  /** P, tokens per position. */
  patchSize: number;
  /** What each training in turn adds; none for the autoregressive model. */
  stages: FlowStage[][];
}

/** d (tarflowlm.md section 5.1). */
const LATENT_SIZE = 5;
const directions = ["forward", "reverse", "forward"] as const;
/** The grouped head's widths that the paper's rule gives for five channels (section 3.1). */
const maf = { mafHiddenSize: 64, mafFeatures: 18 };

/** A mixture has a component per symbol in the first flow; above a Rosenblatt flow two are enough (section 5.1). */
function flowOf(kind: FlowKind, index: number, numLayers: number): FlowStage {
  const direction = directions[index]!;
  if (kind === "affine") return { kind, direction, numLayers };
  if (kind === "mixture-cdf") return { kind, direction, numLayers, numComponents: 27, ...maf };
  if (index === 0) return { kind, direction, numLayers };
  return { kind: "mixture-cdf", direction, numLayers, numComponents: 2, ...maf };
}

const kinds: readonly FlowKind[] = ["affine", "mixture-cdf", "mixture-rosenblatt"];

const layersOf = ({ layers }: Pick<Setup, "layers">): number => layers.reduce((sum, count) => sum + count, 0);

function oneFlow(kind: FlowKind, patchSize: number, setup: Pick<Setup, "layers">): Configuration {
  const name = patchSize === 1 ? `${kind}-1` : `${kind}-1-patches-of-${patchSize}`;
  return { name, kind, training: "jointly", patchSize, stages: [[flowOf(kind, 0, layersOf(setup))]] };
}

export function configurations(setup: Pick<Setup, "layers">): Configuration[] {
  const joint = { training: "jointly", patchSize: 1 } as const;
  const made: Configuration[] = [{ name: "autoregressive", kind: "autoregressive", ...joint, stages: [[]] }];
  for (const kind of kinds) {
    const stack = setup.layers.map((count, index) => flowOf(kind, index, count));
    made.push(oneFlow(kind, 1, setup));
    made.push({ name: `${kind}-3`, kind, ...joint, stages: [stack] });
    if (kind === "mixture-cdf")
      made.push({ name: `${kind}-3-beginnings`, kind, ...joint, training: "with its beginnings", stages: [stack] });
    if (kind !== "mixture-rosenblatt") continue;
    const stages = stack.map((flow) => [flow]);
    made.push({ name: `${kind}-3-flow-by-flow`, kind, ...joint, training: "flow by flow", stages });
  }
  return made;
}

/**
 * What scripts/compare-patches.ts compares: one flow at several P. The grouped head of mixture-cdf goes through all scalars of a patch in
 * order; mixture-rosenblatt takes its tokens as independent given the patches before.
 */
export function patchConfigurations(setup: Pick<Setup, "layers">): Configuration[] {
  const patched: readonly FlowKind[] = ["mixture-cdf", "mixture-rosenblatt"];
  return patched.flatMap((kind) => [1, 2, 4].map((patchSize) => oneFlow(kind, patchSize, setup)));
}

/** Steps of every stage, in proportion to its layers: a layer of a stack sees as many tokens however the stack is trained. */
export function stageSteps({ stages }: Configuration, { tokens, batch, length }: Setup): number[] {
  const steps = Math.max(stages.length, Math.round(tokens / (batch * length)));
  const layers = stages.map((flows) => flows.reduce((sum, { numLayers }) => sum + numLayers, 0) || 1);
  const total = layers.reduce((sum, count) => sum + count, 0);
  let before = 0;
  let done = 0;
  return layers.map((count) => {
    before += count;
    const own = Math.max(1, Math.round((steps * before) / total) - done);
    done += own;
    return own;
  });
}

/** What every training reads, whatever it trains. */
function textOf({ data, runs, batch, length, seed }: Setup) {
  return {
    ...{ corpus: [join(data, "train.txt")], heldOut: [join(data, "valid.txt")], cache: join(runs, "cache") },
    ...{ batch, length, seed, precision: "bf16" as const },
  };
}

/** The trainings of a configuration, each in a folder of its own; the next one starts from the one before. */
export function trainings(configuration: Configuration, setup: Setup): TrainOptions[] {
  const { runs, width, heads, rate } = setup;
  const { patchSize } = configuration;
  const folder = (stage: number) => join(runs, configuration.name, `stage-${stage + 1}`);
  return stageSteps(configuration, setup).map((steps, stage) => {
    const flows = configuration.stages[stage]!;
    const fresh: Partial<TrainOptions> = {
      tokenizer: join(runs, "tokenizer.json"),
      shape: { hidden: width, heads, layers: layersOf(setup) },
      ...(flows.length === 0
        ? { family: "autoregressive" as const }
        : // The baseline is never given a prefix, so the flows are not either.
          { flow: { latentSize: LATENT_SIZE, patchSize, prefixConditioning: false, flows } }),
    };
    return {
      ...{ ...textOf(setup), run: folder(stage) },
      ...(stage === 0 ? fresh : { init: folder(stage - 1), flow: { flows }, stage }),
      ...{ steps, rate, warmup: Math.ceil(steps / 20), schedule: "cosine", floor: 0.1 },
      ...{ weightDecay: 0.1, clip: 1, beta2: 0.98, ema: 0.999 },
      ...(configuration.training === "with its beginnings" && { beginnings: BEGINNINGS }),
      reconstructionHalf: Math.ceil(steps / 20),
      ...{ evaluateEvery: Math.ceil(steps / 4), evaluateSequences: 64, evaluateDraws: 1 },
      saveEvery: Math.ceil(steps / 8),
    };
  });
}

/** Readouts of all states of what the trainings left, which itself stays as it is. */
export function readoutTraining(configuration: Configuration, setup: Setup): TrainOptions {
  const init = trainings(configuration, setup).at(-1)!.run;
  const steps = Math.max(1, Math.min(300, Math.round(setup.tokens / (setup.batch * setup.length))));
  return {
    ...{ ...textOf(setup), run: join(setup.runs, configuration.name, "readouts"), init, readouts: 64 },
    ...{ steps, rate: 3e-3, warmup: Math.ceil(steps / 20), ema: 0.98, saveEvery: steps },
    ...{ evaluateEvery: steps, evaluateSequences: 256, evaluateDraws: 1 },
  };
}
