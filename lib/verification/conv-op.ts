/**
 * Convolutional decoding over given logits, in double precision: every intermediate of the two ancestral forms, and the
 * confidence form through the policy itself.
 */

import { share } from "../decoding/schedule.js";
import type { JsonObject } from "../json.js";
import { fixedTrace, startOf } from "./decoding-traces.js";
import { type Golden, numberOf } from "./golden.js";
import { bestOf, LogitsSession } from "./logits-session.js";
import { inputs, type Outcome, type Outcomes, type Recipe, skipGroup, values } from "./recipe.js";
import { drawIndex, factors, logSumExp, softmax } from "./row-maths.js";

export const convOp: Recipe = async function* (golden, loaded): Outcomes {
  if (loaded) return;
  for (const group of golden.groups()) {
    const parameters = golden.parameters(group);
    const fn = String(parameters["fn"]);
    if (!golden.has(`${group}.logits`) || golden.has(`${group}.xb`)) continue;
    if (fn.endsWith("._ddpm_convolution_update")) yield* updateArrays(golden, group, parameters);
    else if (fn === "generate_llada_convolution") yield* confidenceArrays(golden, group, parameters);
    else yield* skipGroup(golden, group, `"${fn}" is not in this version`);
  }
};

/** One ancestral step of B sequences of T positions. */
interface Step {
  readonly group: string;
  readonly batch: number;
  readonly length: number;
  readonly vocabulary: number;
  readonly maskId: number;
  readonly ids: Int32Array;
  readonly masked: readonly boolean[];
  /** Of each row; SUBS: MASK cannot be drawn, known rows are certain. */
  readonly logP: readonly Float64Array[];
  /** The best tokens of each row, their probabilities. */
  readonly best: readonly number[][];
  readonly p: readonly number[][];
  readonly count: Float64Array;
  readonly s: Float64Array;
}

function* updateArrays(golden: Golden, group: string, parameters: JsonObject): Generator<Outcome> {
  const fineTuning = String(parameters["fn"]).startsWith("r2ft_tools");
  yield* inputs(
    golden,
    ["logits", "x", "t", "u"].map((name) => `${group}.${name}`),
  );
  const step = prepare(golden, group, parameters, fineTuning);
  const times = timesOf(golden, group, parameters, fineTuning);
  const norms = fineTuning ? batchNorms(step) : sequenceNorms(step);
  const computed: Record<string, ArrayLike<number>> = {
    log_p_x0: step.logP.flatMap((row) => [...row]),
    count: step.count,
    s: step.s,
    den: norms.denominator,
    num: norms.numerator,
    s_norm: norms.factor,
    move_chance_t: times.t,
    move_chance_s: times.s,
    ...drawn(golden, step, parameters, { times, norm: (b) => norms.factor[fineTuning ? 0 : b]! }),
  };
  const known = step.masked.map((isMasked) => (isMasked ? 0 : 1));
  for (const [name, of] of Object.entries(computed)) {
    if (!golden.has(`${group}.${name}`)) continue;
    const lanes = of.length / known.length;
    const onlyMasked = name === "candidates" || name === "picked";
    const skip = onlyMasked ? Array.from(of, (_, i) => known[Math.floor(i / lanes)]!) : undefined;
    yield values(`${group}.${name}`, of, skip);
  }
}

function prepare(golden: Golden, group: string, parameters: JsonObject, fineTuning: boolean): Step {
  const [batch = 0, length = 0, vocabulary = 0] = golden.get(`${group}.logits`).shape;
  const logits = golden.floats(`${group}.logits`);
  const ids = golden.ids(`${group}.x`);
  const maskId = numberOf(parameters, "mask_id");
  const never = fineTuning ? numberOf(parameters, "neg_infinity") : -99999;
  const masked = Array.from(ids, (id) => id === maskId);
  const logP = Array.from(ids, (id, row) => {
    const own = Float64Array.from(logits.subarray(row * vocabulary, (row + 1) * vocabulary));
    return masked[row] ? substituted(own, maskId, never) : certain(own, id, never);
  });
  const lanes = fineTuning ? numberOf(parameters, "k_used") : numberOf(parameters, "k") + 1;
  const best = logP.map((row) => bestOf(row, lanes));
  const p = best.map((tokens, row) => tokens.map((v) => Math.exp(logP[row]![v]!)));
  return {
    group,
    batch,
    length,
    vocabulary,
    maskId,
    ids,
    masked,
    logP,
    best,
    p,
    ...windows(masked, length, parameters),
  };
}

function substituted(logits: Float64Array, maskId: number, never: number): Float64Array {
  logits[maskId]! += never;
  const lse = logSumExp(logits);
  return logits.map((logit) => logit - lse);
}

function certain(logits: Float64Array, id: number, never: number): Float64Array {
  logits.fill(never);
  logits[id] = 0;
  return logits;
}

function windows(masked: readonly boolean[], length: number, parameters: JsonObject): Pick<Step, "count" | "s"> {
  const multiplier = numberOf(parameters, "conv_mult", 1);
  const window = { kernel: numberOf(parameters, "kernel_used"), multiplier, shape: "tanh" as const };
  const count = new Float64Array(masked.length);
  const s = new Float64Array(masked.length);
  for (let first = 0; first < masked.length; first += length) {
    const own = factors(masked.slice(first, first + length), window);
    count.set(own.count, first);
    s.set(own.s, first);
  }
  return { count, s };
}

interface Times {
  t: number[];
  s: number[];
}

/** Probabilities of being masked at the step's two times. */
function timesOf(golden: Golden, group: string, parameters: JsonObject, fineTuning: boolean): Times {
  const t = Array.from(golden.floats(`${group}.t`));
  const s = t.map((time) => time - numberOf(parameters, "dt"));
  // The log-linear schedule: 1 - exp(-sigma(t)) = (1 - eps) t with eps = 1e-3.
  const chance = (time: number): number => (fineTuning ? (1 - 1e-3) * time : time);
  return { t: t.map(chance), s: s.map(chance) };
}

interface Norms {
  numerator: number[];
  denominator: number[];
  factor: number[];
}

const sum = (list: readonly number[]): number => list.reduce((total, value) => total + value, 0);

/** Per sequence: masked positions over their weighted best probabilities. */
function sequenceNorms({ batch, length, masked, p, s }: Step): Norms {
  const norms: Norms = { numerator: [], denominator: [], factor: [] };
  for (let b = 0; b < batch; b++) {
    const rows = Array.from({ length }, (_, at) => b * length + at).filter((row) => masked[row]);
    const denominator = sum(rows.map((row) => s[row]! * sum(p[row]!)));
    norms.numerator.push(rows.length);
    norms.denominator.push(denominator);
    norms.factor.push(rows.length / (denominator + 1e-12));
  }
  return norms;
}

/** One for the batch: all masked probabilities over the weighted best ones. */
function batchNorms({ masked, logP, p, s }: Step): Norms {
  const rows = [...masked.keys()].filter((row) => masked[row]);
  const numerator = sum(rows.map((row) => sum(Array.from(logP[row]!, Math.exp))));
  const denominator = sum(rows.map((row) => s[row]! * sum(p[row]!)));
  return { numerator: [numerator], denominator: [denominator], factor: [numerator / denominator] };
}

interface Drawing {
  times: Times;
  norm: (b: number) => number;
}

/** Weights, candidates, the draws and the next canvas. */
function drawn(golden: Golden, step: Step, parameters: JsonObject, { times, norm }: Drawing) {
  const { length, maskId, ids, masked, best, p, s } = step;
  const uniforms = golden.floats(`${step.group}.u`);
  const lanes = best[0]!.length;
  const temperature = numberOf(parameters, "temperature", 1);
  const weights = p.map((row, at) => {
    const b = Math.floor(at / length);
    const move = times.t[b]! - times.s[b]!;
    return row.map((value, j) => (j === lanes - 1 ? times.s[b]! : value * (s[at]! * norm(b)) * move));
  });
  const candidates = best.map((tokens) => [...tokens.slice(0, -1), maskId]);
  const choices = weights.map((row, at) => drawIndex(row, (j) => uniforms[at * lanes + j]!, temperature));
  const next = Array.from(ids, (id, at) => (masked[at] ? candidates[at]![choices[at]!]! : id));
  return {
    q_xs: weights.flat(),
    candidates: candidates.flat(),
    picked: choices,
    x_next: next,
  };
}

async function* confidenceArrays(golden: Golden, group: string, parameters: JsonObject): Outcomes {
  yield* inputs(golden, [`${group}.logits`, `${group}.prompt`]);
  const start = startOf(golden, group, parameters, numberOf(parameters, "mask_id"));
  const steps = numberOf(parameters, "steps");
  yield values(`${group}.num_transfer`, share(numberOf(parameters, "gen_length"), steps));
  const [, length = 0, vocabulary = 0] = golden.get(`${group}.logits`).shape;
  const all = golden.floats(`${group}.logits`);
  const rows = Array.from({ length }, (_, at) => all.subarray(at * vocabulary, (at + 1) * vocabulary));
  const open = (options: ConstructorParameters<typeof LogitsSession>[0] | object): LogitsSession =>
    new LogitsSession({
      ...(options as ConstructorParameters<typeof LogitsSession>[0]),
      logits: () => rows,
      maskId: start.maskId,
    });
  const trace = await fixedTrace(open, start, parameters);
  yield values(`${group}.trace`, trace);
  const before = trace.slice((steps - 1) * length, steps * length);
  yield values(`${group}.last_confidence`, lastConfidence(before, rows, start.maskId, parameters));
}

/** s_i times the largest probability at masked positions; -1 elsewhere. */
function lastConfidence(
  ids: readonly number[],
  rows: readonly ArrayLike<number>[],
  maskId: number,
  parameters: JsonObject,
) {
  const masked = ids.map((id) => id === maskId);
  const { s } = windows(masked, ids.length, parameters);
  return masked.map((isMasked, at) => (isMasked ? s[at]! * Math.max(...softmax(rows[at]!)) : -1));
}
