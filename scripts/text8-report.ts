// The tables of scripts/compare-text8.ts, and what they say in words.
import { markdown, minus, perToken, plus, plusMinus, type Ratio, sign as signOf } from "./comparison-report.js";
import type { Configuration, Setup } from "./text8-configurations.js";
import type { Result } from "./text8-runs.js";

/** What is known of a configuration. */
export interface Found {
  configuration: Configuration;
  result: Result;
  /** Of a stack. */
  readings?: readonly number[] | undefined;
}

/** In bits per character; the standard error is over windows. */
export interface Estimate {
  bits: number;
  standardError: number;
}

export interface Row {
  name: string;
  kind: Configuration["kind"];
  /** Of every flow; of the autoregressive model, its own. */
  layers: number[];
  training: Configuration["training"];
  /** Of test.txt; of flows an upper bound. */
  bitsPerCharacter: Estimate;
  parameters: number;
  trainingTokens: number;
  /** Of a flow: how far its bound lies above the autoregressive model's likelihood, window by window. */
  above?: Estimate;
  /** Of a stack. */
  stack?: StackRow;
}

export interface StackRow {
  /** The bound that the first flow reaches alone. */
  first: Estimate;
  /** What each flow above it takes off. */
  gains: Estimate[];
  /** What they take off together. */
  together: Estimate;
  /** How many bits the stack is better than one flow of the same kind with all layers, window by window. */
  better: Estimate;
  /** Share of held-out characters that every state above the data's reads as. */
  readings: readonly number[];
}

/** Bits per character of windows. */
export function estimate(nats: readonly number[], tokens: readonly number[]): Estimate {
  const bits = nats.map((own) => own / Math.LN2);
  const { value, standardError } = perToken(bits, tokens);
  return { bits: value, standardError };
}

function stackRow({ result, readings = [] }: Found, single: Result): StackRow {
  const { nats, tokens } = result;
  const [first = [], ...above] = result.gains;
  return {
    first: estimate(first, tokens),
    gains: above.map((gain) => estimate(gain, tokens)),
    together: estimate(above.reduce(plus), tokens),
    better: estimate(minus(single.nats, nats), tokens),
    readings,
  };
}

/** A row for every configuration; `layers` is the setup's. */
export function rowsOf(found: readonly Found[], { layers }: Pick<Setup, "layers">): Row[] {
  const total = layers.reduce((sum, count) => sum + count, 0);
  const baseline = found.find(({ configuration: { kind } }) => kind === "autoregressive")?.result;
  const singles = new Map(found.map(({ configuration: { name }, result }) => [name, result]));
  return found.map((own) => {
    const { result } = own;
    const { name, kind, training, stages } = own.configuration;
    const flows = stages.flat();
    const { parameters, trainingTokens } = result;
    return {
      ...{ name, kind, training, layers: flows.length > 0 ? flows.map(({ numLayers }) => numLayers) : [total] },
      bitsPerCharacter: estimate(result.nats, result.tokens),
      ...(baseline &&
        kind !== "autoregressive" && { above: estimate(minus(result.nats, baseline.nats), result.tokens) }),
      ...{ parameters, trainingTokens },
      ...(flows.length > 1 && { stack: stackRow(own, singles.get(`${kind}-1`)!) }),
    };
  });
}

const ratio = ({ bits, standardError }: Estimate): Ratio => ({ value: bits, standardError });
export const figure = (own: Estimate): string => plusMinus(ratio(own));
const sign = (own: Estimate): number => signOf(ratio(own));

/** Every configuration. */
export function table(rows: readonly Row[]): string {
  const head = ["model", "layers", "trained", "bits per character", "parameters", "training tokens"];
  const body = rows.map((row) => [
    row.kind,
    row.layers.join(" + "),
    row.training,
    `${row.kind === "autoregressive" ? "" : "at most "}${figure(row.bitsPerCharacter)}`,
    `${(row.parameters / 1e6).toFixed(2)} M`,
    `${(row.trainingTokens / 1e6).toFixed(2)} M`,
  ]);
  return markdown(head, body);
}

/** Stacks alone: what every flow takes off. */
export function stackTable(rows: readonly Row[]): string {
  const head = [
    "stack",
    "trained",
    "first flow alone",
    "second takes off",
    "third takes off",
    "better than one flow by",
    "states read as the text",
  ];
  const body = rows.flatMap(({ kind, training, stack }) => {
    if (!stack) return [];
    const read = stack.readings.map((share) => `${(100 * share).toFixed(1)} %`).join(", ");
    return [[kind, training, figure(stack.first), ...stack.gains.map(figure), figure(stack.better), read]];
  });
  return markdown(head, body);
}

function compared({ stack }: Row): string {
  const { together, better } = stack!;
  const off = sign(together) > 0 ? `take ${figure(together)} bits per character off` : "take nothing certain off";
  const amount = figure({ ...better, bits: Math.abs(better.bits) });
  const against =
    sign(better) === 0
      ? `the stack and one flow with all the layers do not differ for certain (by ${figure(better)})`
      : `the stack is ${amount} bits ${sign(better) > 0 ? "better" : "worse"} than one flow with all the layers`;
  return `the flows above the first ${off} what it leaves, and ${against}`;
}

/** What the figures say, stack by stack, and of the whole: made from the figures alone. */
export function findings(rows: readonly Row[]): string {
  const stacks = rows.filter(({ stack }) => stack !== undefined);
  const lines = stacks.map((row) => `- ${row.kind}, trained ${row.training}: ${compared(row)}.`);
  const paying = stacks
    .filter(({ stack }) => sign(stack!.better) > 0)
    .map(({ kind, training }) => `${kind} (${training})`);
  const verdict =
    paying.length === 0
      ? "At this budget no flow above a first one pays for certain: no stack is better than one flow with all the layers."
      : `At this budget flows above the first pay in ${paying.length} of ${stacks.length} stacks: ${paying.join(", ")}.`;
  return [verdict, "", ...lines, "", baseline(rows)].join("\n");
}

/** What a flow must take off the share of characters that its input reads as, for its two states to be told apart in earnest. */
const STEP = 0.1;

const ORDINALS = ["first", "second", "third"];

/** Which flows of every stack leave their state less readable than they found it: from the figures alone. */
export function levels(rows: readonly Row[]): string {
  const lines = rows.flatMap(({ kind, training, stack }) => {
    if (!stack) return [];
    const takers = stack.readings.flatMap((share, l, all) =>
      (l === 0 ? 1 : all[l - 1]!) - share >= STEP ? [ORDINALS[l]!] : [],
    );
    return [`- ${kind}, trained ${training}: ${listed(takers, stack.readings.length)}`];
  });
  return [
    `Which flows take ${100 * STEP} % or more of the characters off what their input reads as:`,
    "",
    ...lines,
  ].join("\n");
}

function listed(takers: readonly string[], flows: number): string {
  if (takers.length === flows) return "every one.";
  if (takers.length === 0) return "none.";
  return takers.length === 1 ? `the ${takers[0]} alone.` : `the ${takers.join(" and the ")}.`;
}

function baseline(rows: readonly Row[]): string {
  const flows = rows.filter(({ above }) => above !== undefined);
  const best = flows.reduce((a, b) => (b.bitsPerCharacter.bits < a.bitsPerCharacter.bits ? b : a));
  const above = best.above!;
  const which = `${best.kind} with ${best.layers.length === 1 ? "one flow" : `${best.layers.length} flows`}`;
  const gap = figure({ ...above, bits: Math.abs(above.bits) });
  return `The lowest of the flows' bounds, ${which} trained ${best.training}, lies ${gap} bits per character ${
    above.bits >= 0 ? "above" : "below"
  } the autoregressive model's likelihood.`;
}
