/** The fast loop of a latent thought model step by step; then, at the posterior that is given: logits, losses, gradients, bounds, decoding. */

import type { Inference } from "../checkpoint/config.js";
import { parseInference } from "../checkpoint/noema-thought.js";
import { isObject } from "../json.js";
import type { FitResult, NativeFit, ThoughtBatch } from "../native/addon.js";
import type { Golden } from "./golden.js";
import { gradients, inputs, type Outcomes, type Recipe, type ThoughtCase, values } from "./recipe.js";

export const thoughtArrays: Recipe = async function* (golden, loaded): Outcomes {
  if (loaded?.family !== "thought" || !golden.has("tokens")) return;
  yield* inputs(golden, ["tokens", "valid", "fit_mask", "fast.eps", "fresh.eps"]);
  const task = taskOf(golden, loaded);
  yield* fastLoop(task);
  yield* decoder(task);
  yield* weightGradients(task);
  yield* bounds(task);
  yield* greedy(task);
};

/** A case's inputs as native calls take them. */
interface Task {
  golden: Golden;
  loaded: ThoughtCase;
  batch: number;
  length: number;
  /** [B,T] positions x_0 .. x_{T-1}. */
  ids: Int32Array;
  /** Targets x_1 .. x_T: all that are real, those that the fit scores, and the others of the real ones. */
  real: Int32Array;
  scored: Int32Array;
  rest: Int32Array;
  inference: Inference;
}

function taskOf(golden: Golden, loaded: ThoughtCase): Task {
  const { shape } = golden.get("tokens");
  const [batch, length] = [shape[0]!, shape[1]! - 1];
  const tokens = golden.ids("tokens");
  const at = (offset: number) =>
    Int32Array.from({ length: batch * length }, (_, r) => tokens[r + Math.floor(r / length) + offset]!);
  const next = at(1);
  const where = (counts: (r: number) => boolean) => next.map((id, r) => (counts(r) ? id : -1));
  const valid = golden.ids("valid");
  const mask = golden.ids("fit_mask");
  return {
    ...{ golden, loaded, batch, length, ids: at(0) },
    real: where((r) => valid[r] === 1),
    scored: where((r) => mask[r] === 1),
    rest: where((r) => valid[r] === 1 && mask[r] === 0),
    inference: inferenceOf(golden, loaded),
  };
}

/** What the expectations say of the fit goes before what the model says. */
function inferenceOf({ description }: Golden, { config, layout }: ThoughtCase): Inference {
  const own = isObject(description.fit) ? description.fit : {};
  const general = layout.config(config).inference;
  return parseInference({
    path: "expected.json: fit",
    values: { ...(isObject(general) ? general : {}), ...own },
  });
}

export function fitOf({ steps, learningRate, ...inference }: Inference): NativeFit {
  const [firstRate, lastRate] = learningRate;
  return { steps, firstRate, lastRate, ...inference };
}

function batchOf({ batch, length, ids }: Task, targets: Int32Array): ThoughtBatch & { targets: Int32Array } {
  return { batch, length, ids, targets };
}

function floats(golden: Golden, name: string): Float32Array {
  return Float32Array.from(golden.floats(name));
}

/** The first or the last of the arrays [steps + 1, B, N, C] that the loop went through. */
function stepOf({ golden, inference }: Task, name: string, step: "first" | "last"): Float32Array {
  const all = floats(golden, name);
  const size = all.length / (inference.steps + 1);
  return step === "first" ? all.slice(0, size) : all.slice(-size);
}

async function* fastLoop(task: Task): Outcomes {
  const { golden, loaded, inference } = task;
  const result = await loaded.native.fit({
    ...batchOf(task, task.scored),
    fit: { ...fitOf(inference), score: true },
    mean: stepOf(task, "fast.mu", "first"),
    logVariance: stepOf(task, "fast.lv", "first"),
    draws: floats(golden, "fast.eps"),
    trace: true,
  });
  yield* history(result);
  const { rates, meanGradient, logVarianceGradient } = result.trace!;
  yield values("fast.rate", rates);
  yield values("fast.grad_mu", meanGradient);
  // The loop forms no gradient of a log-variance that stays as it is.
  yield values("fast.grad_lv", inference.constantLogVariance ? chained(task, meanGradient) : logVarianceGradient);
  yield values("z", result.z);
  yield values("kl", result.kl.at(-1)!);
}

/** The gradient of the log-variance from that of the mean: both reach z, and the divergence has its own. */
function chained(task: Task, meanGradient: Float32Array): Float32Array {
  const [mean, logVariance] = [stepOf(task, "fast.mu", "first"), stepOf(task, "fast.lv", "first")];
  const eps = task.golden.floats("fast.eps");
  return meanGradient.map((gradient, i) => {
    const variance = Math.exp(logVariance[i]!);
    return ((gradient - mean[i]!) * eps[i]! * Math.sqrt(variance) + variance - 1) / 2;
  });
}

function* history({ trace, crossEntropy, kl }: FitResult) {
  const flat = (rows: readonly ArrayLike<number>[]): number[] => rows.flatMap((row) => Array.from(row));
  yield values("fast.mu", flat(trace!.mean));
  yield values("fast.lv", flat(trace!.logVariance));
  yield values("fast.ce", flat(crossEntropy));
  yield values("fast.kl", flat(kl));
  const objective = crossEntropy.map((row, s) => Array.from(row, (nats, b) => nats + kl[s]![b]!));
  yield values("fast.objective", flat(objective));
}

/** At the z that is given. */
async function* decoder(task: Task): Outcomes {
  const { golden, loaded, batch } = task;
  const z = floats(golden, "z");
  const { logits } = await loaded.native.forward({ ...batchOf(task, task.real), z, logits: true });
  const padding = Uint8Array.from({ length: logits!.length }, (_, i) => {
    return task.real[Math.floor(i / loaded.config.vocabSize)]! < 0 ? 1 : 0;
  });
  yield values("logits", logits!, padding);
  yield values("ce", await loaded.native.losses({ ...batchOf(task, task.real), z }));
  const nats = await loaded.native.losses({ ...batchOf(task, task.scored), z });
  const count = task.scored.filter((id) => id >= 0).length;
  yield values("slow.loss", [sum(nats) / count]);
  const rest = await loaded.native.losses({ ...batchOf(task, task.rest), z });
  yield values("rest.ce", bySequence(rest, batch).map(sum));
}

function sum(list: ArrayLike<number>): number {
  return Array.from(list).reduce((total, value) => total + value, 0);
}

function bySequence(list: Float32Array, batch: number): Float32Array[] {
  const size = list.length / batch;
  return Array.from({ length: batch }, (_, b) => list.subarray(b * size, (b + 1) * size));
}

async function* weightGradients(task: Task): Outcomes {
  const { golden, loaded } = task;
  const count = task.scored.filter((id) => id >= 0).length;
  const trainer = await loaded.native.trainer({ keepAverage: false });
  try {
    const weights = new Float32Array(task.scored.length).fill(1 / count);
    await trainer.accumulate({ ...batchOf(task, task.scored), weights, z: floats(golden, "z") });
    yield* gradients(golden, trainer, loaded);
  } finally {
    trainer.dispose();
  }
}

/** Of the posterior that is given. */
async function* bounds(task: Task): Outcomes {
  const { golden, loaded } = task;
  if (!golden.has("fresh.eps")) return;
  const posterior = {
    count: golden.get("fresh.eps").shape[0]!,
    draws: floats(golden, "fresh.eps"),
    mean: stepOf(task, "fast.mu", "last"),
    logVariance: stepOf(task, "fast.lv", "last"),
  };
  const bound = await loaded.native.bound({ ...batchOf(task, task.scored), ...posterior });
  yield values("fresh.ce", bound.crossEntropy);
  yield values("fresh.log_w", bound.logWeight);
  yield values("fresh.nelbo", bound.nelbo);
  yield values("fresh.nelbo_sampled", bound.nelboSampled);
  yield values("fresh.iwae", bound.iwae);
  const rest = await loaded.native.bound({ ...batchOf(task, task.rest), ...posterior });
  yield values("fresh.rest_ce", rest.crossEntropy);
}

/** The likeliest continuation of the first tokens, with the gap of each choice. */
async function* greedy(task: Task): Outcomes {
  const { golden, loaded, batch, length } = task;
  const { greedy: described } = golden.description;
  if (!golden.has("greedy.ids") || !isObject(described)) return;
  const prompt = Number(described["prompt_length"]);
  const tokens = golden.get("greedy.ids").shape[1]!;
  const ids = Int32Array.from({ length: batch * prompt }, (_, i) => {
    return golden.ids("tokens")[Math.floor(i / prompt) * (length + 1) + (i % prompt)]!;
  });
  const made = await loaded.native.continue({
    ...{ ids, batch, length: prompt, z: floats(golden, "z"), tokens, logits: true },
    ...{ seeds: new BigUint64Array(batch), temperature: 0, topK: 0, topP: 1 },
  });
  yield values(
    "greedy.ids",
    made.tokens.flatMap((list) => Array.from(list)),
  );
  const V = loaded.config.vocabSize;
  const gaps = made.logits!.flatMap((all) => {
    return Array.from({ length: all.length / V }, (_, t) => gap(all.subarray(t * V, (t + 1) * V)));
  });
  yield values("greedy.gap", gaps);
}

/** Between the two largest. */
function gap(logits: Float32Array): number {
  const [first = 0, second = 0] = logits.toSorted((a, b) => b - a);
  return first - second;
}
