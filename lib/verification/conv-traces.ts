/** Traces of Conv's ancestral decoder, with the uniforms that it drew. */

import { moves } from "../decoding/conv.js";
import type { Sequence } from "../decoding/sequence.js";
import type { JsonObject } from "../json.js";
import type { NativeSession, StepResult } from "../native/addon.js";
import { follow, type Start, sessionOptions, startOf } from "./decoding-traces.js";
import { type Golden, numberOf } from "./golden.js";
import { inputs, type MaskedCase, type Outcomes, type Recipe, skipGroup, values } from "./recipe.js";
import { drawIndex } from "./row-maths.js";

export const convTraces: Recipe = async function* (golden, loaded): Outcomes {
  if (loaded?.family !== "masked") return;
  for (const group of golden.groups()) {
    const parameters = golden.parameters(group);
    if (parameters["fn"] === "generate_yb" && golden.has(`${group}.trace`)) {
      yield* traceGroup(golden, loaded, group, parameters);
    }
  }
};

async function* traceGroup(golden: Golden, loaded: MaskedCase, group: string, parameters: JsonObject): Outcomes {
  const kind = parameters["decode_type"];
  const temperature = temperatureOf(parameters);
  const drawn = temperature > 0 && !golden.has(`${group}.u`);
  if (drawn || (kind !== "conv" && kind !== "topk")) {
    yield* skipGroup(golden, group, drawn ? "its draws are not given" : `"${String(kind)}" is not in this version`);
    return;
  }
  yield* inputs(golden, [`${group}.prompt`, `${group}.u`]);
  const start = startOf(golden, group, parameters, loaded.config.maskTokenId);
  const uniforms = uniformsOf(golden, group, start);
  const run = { loaded, start, parameters, temperature, uniforms };
  yield values(`${group}.trace`, await (kind === "conv" ? convTrace(run) : topTrace(run)));
}

interface Run {
  readonly loaded: MaskedCase;
  readonly start: Start;
  readonly parameters: JsonObject;
  readonly temperature: number;
  /** Those of a step's rows, [R, k+1]; undefined at temperature 0. */
  readonly uniforms: ((step: number, rows: readonly number[]) => Float32Array) | undefined;
}

/** A number, or words that start with one; 1 is what the released code passes. */
function temperatureOf({ temperature = 1 }: JsonObject): number {
  return Number.parseFloat(String(temperature));
}

function uniformsOf(golden: Golden, group: string, { batch, length }: Start): Run["uniforms"] {
  const name = `${group}.u`;
  if (!golden.has(name)) return undefined;
  const given = golden.floats(name);
  const lanes = golden.get(name).shape.at(-1)!;
  return (step, rows) => {
    const at = (row: number): number => (step * batch * length + row) * lanes;
    return Float32Array.from(rows.flatMap((row) => [...given.slice(at(row), at(row) + lanes)]));
  };
}

async function convTrace({ loaded, start, parameters, temperature, uniforms }: Run): Promise<number[]> {
  const trace: number[] = [];
  const decoding = {
    rule: "conv",
    form: "ancestral" as const,
    kernel: numberOf(parameters, "block_length"),
    multiplier: numberOf(parameters, "conv_mult", 1),
    candidates: numberOf(parameters, "k"),
    steps: numberOf(parameters, "steps"),
    temperature,
  };
  const task = {
    fill: false,
    ...(uniforms ? { uniforms } : {}),
    ...(parameters["eos_fill"] ? { revise: eosFill(numberOf(parameters, "eos_token_id")) } : {}),
  };
  const open = loaded.native.session.bind(loaded.native);
  await follow(open, start, parameters, decoding, task, (canvas) => trace.push(...canvas));
  return trace;
}

/** From the second end-of-text token on, everything becomes one. */
function eosFill(eosId: number): (sequence: Sequence) => number[] {
  return ({ ids, draft }) => {
    const second = ids.indexOf(eosId, ids.indexOf(eosId) + 1);
    if (ids.indexOf(eosId) < 0 || second < 0) return [];
    const positions = Array.from({ length: ids.length - second }, (_, i) => second + i);
    for (const at of positions) draft[at] = eosId;
    return positions;
  };
}

/** "topk": each position draws among the k + 1 largest of all tokens' weights and MASK's. No policy of noema's. */
async function topTrace({ loaded, start, parameters, temperature, uniforms }: Run): Promise<number[]> {
  const steps = numberOf(parameters, "steps");
  const lanes = numberOf(parameters, "k") + 1;
  const ids = start.ids.slice();
  const trace = [...ids];
  const session = loaded.native.session(sessionOptions(start, parameters));
  try {
    let changed: number[] = [];
    for (let step = 0; step < steps; step++) {
      const rows = [...ids.keys()].filter((row) => ids[row] === start.maskId);
      const seen = await look(session, { step, rows, changed, ids, top: lanes, maskId: start.maskId });
      const drawn = drawTop(seen, { lanes, temperature, ...moves({ index: step, of: steps }) }, uniforms?.(step, rows));
      rows.forEach((row, r) => {
        ids[row] = drawn[r] ?? start.maskId;
      });
      changed = rows;
      trace.push(...ids);
    }
    return trace;
  } finally {
    session.dispose();
  }
}

interface TopLook {
  step: number;
  rows: readonly number[];
  changed: readonly number[];
  ids: Int32Array;
  top: number;
  maskId: number;
}

function look(session: NativeSession, { step, rows, changed, ids, top, maskId }: TopLook): Promise<StepResult> {
  return session.step({
    step,
    setRows: Int32Array.from(changed),
    setIds: Int32Array.from(changed, (row) => ids[row]!),
    rows: Int32Array.from(rows),
    draw: { kind: "argmax", temperature: 0, topK: 0, topP: 1 },
    excludedId: maskId,
    top,
  });
}

interface TopDraw {
  lanes: number;
  temperature: number;
  move: number;
  stay: number;
}

/** The token of each row; undefined where it stays masked. */
function drawTop(
  { topIds, topProbabilities }: StepResult,
  draw: TopDraw,
  uniforms?: Float32Array,
): (number | undefined)[] {
  const { lanes, temperature, move, stay } = draw;
  const count = (topProbabilities?.length ?? 0) / lanes;
  const mass = topProbabilities!.reduce((sum, p) => sum + p, 0);
  return Array.from({ length: count }, (_, r) => {
    const tokens: (number | undefined)[] = [...topIds!.slice(r * lanes, (r + 1) * lanes)];
    const weights = Array.from(topProbabilities!.slice(r * lanes, (r + 1) * lanes), (p) => (p * move * count) / mass);
    const place = weights.findIndex((weight) => stay > weight);
    if (place >= 0) {
      weights.splice(place, 0, stay);
      tokens.splice(place, 0, undefined);
    }
    const picked = drawIndex(weights.slice(0, lanes), (j) => uniforms?.[r * lanes + j] ?? 0.5, temperature);
    return tokens[picked];
  });
}
