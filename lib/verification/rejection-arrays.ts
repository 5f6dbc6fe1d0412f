/** R2FT over given logits, in double precision: what is hidden, what the rules write there by given draws, losses and gradients. */

import type { JsonObject } from "../json.js";
import { type Cut, type Rejected, reject, rejectionLoss } from "../training/masked/rejection.js";
import { type Golden, numberOf } from "./golden.js";
import { inputs, type Outcome, type Outcomes, type Recipe, values } from "./recipe.js";
import { logSumExp } from "./row-maths.js";

export const rejectionArrays: Recipe = async function* (golden, loaded): Outcomes {
  if (loaded) return;
  for (const group of golden.groups()) {
    const parameters = golden.parameters(group);
    if (!golden.has(`${group}.logits`) || !golden.has(`${group}.xb`)) continue;
    if (parameters["fn"] === "r2ft_tools._loss_r2ft") yield* textArrays(golden, group, parameters);
    else yield* responseArrays(golden, group, parameters);
  }
};

/** What a group of arrays is about. */
interface Group {
  readonly golden: Golden;
  readonly group: string;
  readonly maskId: number;
  readonly batch: number;
  readonly length: number;
}

function groupOf(golden: Golden, group: string, parameters: JsonObject): Group {
  const [batch = 0, length = 0] = golden.get(`${group}.x0`).shape;
  return { golden, group, maskId: numberOf(parameters, "mask_id"), batch, length };
}

/** The published code's draws, in the order in which it asked. */
class GivenDraws {
  readonly #values: { call: string; value: unknown }[];

  constructor(parameters: JsonObject) {
    this.#values = [...(parameters["draws"] as { call: string; value: unknown }[])];
  }

  next(call: string): unknown {
    const at = this.#values.findIndex((one) => one.call === call);
    return at < 0 ? undefined : this.#values.splice(at, 1)[0]!.value;
  }
}

/** Whole texts: the inside or the outside of two boundaries is hidden. */
function* textArrays(golden: Golden, name: string, parameters: JsonObject): Generator<Outcome> {
  const group = groupOf(golden, name, parameters);
  yield* inputs(golden, [`${name}.x0`, `${name}.logits`]);
  const settings = parameters["r2ft"] as JsonObject;
  const draws = new GivenDraws(parameters);
  const sides = (draws.next("randint") as number[][])[0]!;
  const cuts = sides.map((side): Cut => {
    const [a, b] = (draws.next("randperm") as number[]).slice(0, 2).sort((x, y) => x - y);
    return { inside: side >= 5, left: a! + 5, right: b! + 5 };
  });
  const rules = {
    draw: () => (draws.next("randint") as number[])[0]!,
    takesLeft: () => draws.next("choice") === "left",
    phraseLimit: numberOf(settings, "min_phase_len"),
  };
  const texts = cuts.map((cut, b) => reject(rowsOf(group, "x0", b), cut, group.maskId, rules));
  yield values(
    `${name}.in_or_out`,
    cuts.map(({ inside }) => Number(inside)),
  );
  yield values(
    `${name}.bounds`,
    cuts.flatMap(({ left, right }) => [left, right]),
  );
  yield values(
    `${name}.xt`,
    texts.flatMap(({ ids }) => [...ids]),
  );
  yield values(
    `${name}.xb`,
    texts.flatMap(({ ids, losers }) => Array.from(ids, (id, at) => (losers[at]! < 0 ? id : losers[at]!))),
  );
  yield values(
    `${name}.mask`,
    texts.flatMap(({ winners }) => Array.from(winners, (id) => Number(id >= 0))),
  );
  const whole = settings["denom"] === "seq_len";
  const denominators = texts.map(({ hidden }) => (whole ? group.length : hidden));
  yield values(`${name}.denom`, whole ? denominators.slice(0, 1) : denominators);
  yield* judged(group, settings, texts, [denominators, denominators]);
}

/** Responses to prompts: what their rule writes is given, for training on such data is not in this version. */
function* responseArrays(golden: Golden, name: string, parameters: JsonObject): Generator<Outcome> {
  const group = groupOf(golden, name, parameters);
  yield* inputs(
    golden,
    ["x0", "xT", "attention_mask", "logits", "xt"].map((array) => `${name}.${array}`),
  );
  for (const array of ["xb", "repeat_mask"])
    yield { kind: "skipped", name: `${name}.${array}`, reason: "the rule for responses is not in this version" };
  const texts = Array.from({ length: group.batch }, (_, b): Rejected => {
    const ids = rowsOf(group, "xt", b);
    const only = (array: string, mask: string): Int32Array => {
      const scored = rowsOf(group, mask, b);
      return rowsOf(group, array, b).map((id, at) => (scored[at] && ids[at] === group.maskId ? id : -1));
    };
    const winners = only("x0", "attention_mask");
    return { ids, winners, losers: only("xb", "repeat_mask"), hidden: 0 };
  });
  const count = (mask: string): number[] =>
    texts.map((_, b) => rowsOf(group, mask, b).reduce((sum, one) => sum + one, 0));
  const denominators: [number[], number[]] = [count("attention_mask"), count("repeat_mask")];
  yield values(`${name}.denom_w`, denominators[0]);
  yield values(`${name}.denom_l`, denominators[1]);
  yield* judged(group, parameters["r2ft"] as JsonObject, texts, denominators);
}

function rowsOf({ golden, group, length }: Group, array: string, b: number): Int32Array {
  return golden.ids(`${group}.${array}`).slice(b * length, (b + 1) * length);
}

/** Log-probabilities of both, the loss, and its gradient by the logits. */
function* judged(
  group: Group,
  settings: JsonObject,
  texts: readonly Rejected[],
  [winnersOver, losersOver]: readonly [number[], number[]],
): Generator<Outcome> {
  const { golden, group: name, batch, length, maskId } = group;
  const logits = golden.floats(`${name}.logits`);
  const V = logits.length / (batch * length);
  const rows = Array.from({ length: batch * length }, (_, r) => {
    const row = Float64Array.from(logits.subarray(r * V, (r + 1) * V));
    row[maskId] = Number.NEGATIVE_INFINITY;
    const lse = logSumExp(row);
    return row.map((logit) => logit - lse);
  });
  const logOf = (which: "winners" | "losers"): Float64Array[] =>
    texts.map((text, b) => Float64Array.from(text[which], (id, at) => (id < 0 ? 0 : rows[b * length + at]![id]!)));
  const [won, lost] = [logOf("winners"), logOf("losers")];
  const mean = (log: Float64Array, over: number): number => log.reduce((sum, one) => sum + one, 0) / over;
  const weights = {
    betaW: numberOf(settings, "beta_w"),
    betaL: numberOf(settings, "beta_l"),
    betaA: numberOf(settings, "beta_a"),
    gamma: numberOf(settings, "gamma"),
  };
  const W = won.map((log, b) => mean(log, winnersOver[b]!));
  const L = lost.map((log, b) => mean(log, losersOver[b]!));
  const losses = W.map((own, b) => rejectionLoss(own, L[b]!, weights));
  const gradient = new Float64Array(logits.length);
  texts.forEach((text, b) => {
    for (let at = 0; at < length; at++) {
      const row = b * length + at;
      pull(gradient.subarray(row * V, (row + 1) * V), rows[row]!, text.winners[at]!, losses[b]!.byW / winnersOver[b]!);
      pull(gradient.subarray(row * V, (row + 1) * V), rows[row]!, text.losers[at]!, losses[b]!.byL / losersOver[b]!);
    }
  });
  const surprise = (means: readonly number[]): number => Math.log1p(Math.exp(-means.reduce((a, b) => a + b, 0)));
  const computed: Record<string, ArrayLike<number>> = {
    log_p_w: won.flatMap((log) => [...log]),
    log_p_l: lost.flatMap((log) => [...log]),
    loss: [losses.reduce((sum, { loss }) => sum + loss, 0)],
    history_w: [surprise(W)],
    history_l: [surprise(L)],
    grad_logits: gradient,
  };
  for (const [array, of] of Object.entries(computed)) yield values(`${name}.${array}`, of);
}

/** Adds the gradient of `weight` * log p(id) by a row's logits. */
function pull(gradient: Float64Array, logP: Float64Array, id: number, weight: number): void {
  if (id < 0) return;
  logP.forEach((one, v) => {
    gradient[v]! += weight * ((v === id ? 1 : 0) - Math.exp(one));
  });
}
