// The tables of scripts/compare-thoughts.ts, and what they say in words: all from the figures alone.
import { markdown, minus, perToken, plusMinus, type Ratio, sign } from "./comparison-report.js";
import type { Cell, Configuration } from "./thoughts-configurations.js";
import type { Result, Scored } from "./thoughts-runs.js";

/** What is known of a model. */
export interface Found {
  configuration: Configuration;
  result: Result;
}

/** Nats per token of whole windows, or of their continuations. */
export interface Figures {
  /** The baseline's likelihood, a thought model's mean over fresh draws. */
  nats: Ratio;
  thought?: {
    importanceWeighted: Ratio;
    /** How far the importance-weighted bound lies above the baseline's likelihood, window by window. */
    above: Ratio;
  };
  /** Of a thought model's whole windows. */
  terms?: {
    crossEntropy: Ratio;
    kl: Ratio;
    /** No bound. */
    same_noise_nelbo: Ratio;
  };
}

export interface Row {
  name: string;
  cell?: Cell;
  whole: Figures;
  continued: Figures;
  parameters: number;
  embeddings: number;
  trainingTokens: number;
  tokensPerSecond: number;
  /** Of all sequences in training. */
  fastSteps: number;
}

/** What a thought model of more steps, or of more latents, has less or more, window by window. */
export interface Effect {
  /** T_fast or N goes from one value to the next, the other one stays. */
  changed: "T" | "N";
  stays: number;
  from: number;
  to: number;
  /** Of the bounds: negative where they fall. */
  whole: Ratio;
  continued: Ratio;
}

function figuresOf({ tokens, nats, thought }: Scored, baseline: Scored): Figures {
  const each = (values: readonly number[]) => perToken(values, tokens);
  if (!thought) return { nats: each(nats) };
  const { crossEntropy, kl, importanceWeighted, same_noise_nelbo: same } = thought;
  const above = each(minus(importanceWeighted, baseline.nats));
  return {
    nats: each(nats),
    thought: { importanceWeighted: each(importanceWeighted), above },
    ...(same && { terms: { crossEntropy: each(crossEntropy), kl: each(kl), same_noise_nelbo: each(same) } }),
  };
}

const baselineOf = (found: readonly Found[]): Result => found.find(({ configuration }) => !configuration.cell)!.result;

export function rowsOf(found: readonly Found[], { length }: { length: number }): Row[] {
  const baseline = baselineOf(found);
  return found.map(({ configuration, result }) => {
    const { parameters, embeddings, trainingTokens, tokensPerSecond } = result;
    return {
      ...configuration,
      whole: figuresOf(result.whole, baseline.whole),
      continued: figuresOf(result.continued, baseline.continued),
      ...{ parameters, embeddings, trainingTokens, tokensPerSecond },
      fastSteps: ((configuration.cell?.steps ?? 0) * trainingTokens) / length,
    };
  });
}

/** Every step from one row of the table to the next, and from one column to the next. */
export function effectsOf(found: readonly Found[]): Effect[] {
  const cells = found.flatMap(({ configuration: { cell }, result }) => (cell ? [{ cell, result }] : []));
  const along = (changed: Effect["changed"], own: keyof Cell, other: keyof Cell): Effect[] => {
    const sorted = [...cells].sort((a, b) => a.cell[other] - b.cell[other] || a.cell[own] - b.cell[own]);
    return sorted.slice(1).flatMap((after, i) => {
      const before = sorted[i]!;
      if (before.cell[other] !== after.cell[other]) return [];
      const difference = (part: "whole" | "continued") =>
        perToken(minus(after.result[part].nats, before.result[part].nats), after.result[part].tokens);
      const { [own]: from, [other]: stays } = before.cell;
      const ends = { changed, stays, from, to: after.cell[own] };
      return [{ ...ends, whole: difference("whole"), continued: difference("continued") }];
    });
  };
  return [...along("T", "steps", "latents"), ...along("N", "latents", "steps")];
}

const names = ({ cell }: Row): string[] => (cell ? [String(cell.steps), String(cell.latents)] : ["baseline", ""]);

export function boundsTable(rows: readonly Row[], draws: number): string {
  const head = [
    ...["T_fast", "N", "nats per token", "cross-entropy", "KL"],
    ...[`IWAE-${draws}`, "IWAE above the baseline by", "same_noise_nelbo, no bound"],
  ];
  const body = rows.map((row) => {
    const { nats, thought, terms } = row.whole;
    if (!thought || !terms) return [...names(row), plusMinus(nats), "", "", "", "", ""];
    const { crossEntropy, kl, same_noise_nelbo } = terms;
    const own = [crossEntropy, kl, thought.importanceWeighted, thought.above, same_noise_nelbo];
    return [...names(row), `at most ${plusMinus(nats)}`, ...own.map(plusMinus)];
  });
  return markdown(head, body);
}

export function continuationsTable(rows: readonly Row[]): string {
  const head = ["T_fast", "N", "continuation loss", "averaged over draws", "averaged above the baseline by"];
  const body = rows.map((row) => {
    const { nats, thought } = row.continued;
    if (!thought) return [...names(row), plusMinus(nats), "", ""];
    return [...names(row), ...[nats, thought.importanceWeighted, thought.above].map(plusMinus)];
  });
  return markdown(head, body);
}

const millions = (count: number): string => `${(count / 1e6).toFixed(2)} M`;
const baselineRow = (rows: readonly Row[]): Row => rows.find(({ cell }) => !cell)!;

export function costTable(rows: readonly Row[]): string {
  const head = [
    ...["T_fast", "N", "parameters", "without embeddings", "training tokens per second"],
    ...["fast steps of all sequences", "minutes of training", "times the baseline's"],
  ];
  const { tokensPerSecond: fastest } = baselineRow(rows);
  const body = rows.map((row) => {
    const { parameters, embeddings, tokensPerSecond, trainingTokens, fastSteps } = row;
    const minutes = trainingTokens / tokensPerSecond / 60;
    return [
      ...[...names(row), millions(parameters), millions(parameters - embeddings), tokensPerSecond.toFixed(0)],
      ...[String(fastSteps), minutes.toFixed(1), (fastest / tokensPerSecond).toFixed(1)],
    ];
  });
  return markdown(head, body);
}

/** In words: by how much something falls or rises, if it does so for certain. */
function moved(what: string, own: Ratio): string {
  const amount = plusMinus({ ...own, value: Math.abs(own.value) });
  const way = sign(own);
  if (way === 0) return `${what} does not move for certain (${plusMinus(own)})`;
  return `${what} ${way < 0 ? "falls" : "rises"} by ${amount}`;
}

function verdict(subject: string, part: string, own: readonly Ratio[]): string {
  const ways = own.map(sign);
  const count = (way: number) => ways.filter((one) => one === way).length;
  const [falls, rises, all] = [count(-1), count(1), own.length];
  if (falls === all) return `${subject} lowers ${part} in all ${all} comparisons.`;
  if (falls + rises === 0) return `${subject} moves ${part} in none of ${all} comparisons for certain.`;
  return `${subject} lowers ${part} in ${falls} and raises it in ${rises} of ${all} comparisons for certain.`;
}

function effectFindings(effects: readonly Effect[], changed: Effect["changed"]): string {
  const own = effects.filter((effect) => effect.changed === changed);
  const subject = changed === "T" ? "More thought (T_fast)" : "More latents (N)";
  if (own.length === 0) return `${subject}: nothing to compare.`;
  const lines = own.map(({ stays, from, to, whole, continued }) => {
    const where = `${changed === "T" ? "N" : "T"} = ${stays}, ${changed} from ${from} to ${to}`;
    return `- ${where}: ${moved("the bound", whole)}, ${moved("the continuation loss", continued)}.`;
  });
  const verdicts = [
    verdict(
      subject,
      "the bound",
      own.map(({ whole }) => whole),
    ),
    verdict(
      "It",
      "the continuation loss",
      own.map(({ continued }) => continued),
    ),
  ];
  return [verdicts.join(" "), "", ...lines].join("\n");
}

const label = ({ cell }: Row): string => `T_fast ${cell!.steps}, N ${cell!.latents}`;

/** Whether any model lies below the baseline, and how far off the lowest is. */
function againstBaseline(rows: readonly Row[], part: "whole" | "continued"): string {
  const [what, of] =
    part === "whole"
      ? ["importance-weighted bound", "the baseline's likelihood"]
      : ["continuation loss, averaged over draws,", "the baseline's continuation loss"];
  const models = rows.flatMap((row) => {
    const { thought } = row[part];
    return thought ? [{ row, above: thought.above, value: thought.importanceWeighted.value }] : [];
  });
  const below = models.filter(({ above }) => sign(above) < 0).map(({ row }) => label(row));
  const lowest = models.reduce((a, b) => (b.value < a.value ? b : a));
  const { above } = lowest;
  const gap = plusMinus({ ...above, value: Math.abs(above.value) });
  const side = above.value < 0 ? "below" : "above";
  const some =
    below.length === 0
      ? `No thought model's ${what} lies below ${of} for certain`
      : `In ${below.length} of ${models.length} thought models the ${what} lies below ${of} for certain (${below.join("; ")})`;
  return `${some}; the lowest, of ${label(lowest.row)}, lies ${gap} nats per token ${side} it.`;
}

const range = (values: readonly number[], digits: number): string =>
  `${Math.min(...values).toFixed(digits)} to ${Math.max(...values).toFixed(digits)}`;

/** What thoughts cost to say, and what scoring by the fit's own noise would have made of it. */
function ofNoise(rows: readonly Row[]): string {
  const models = rows.flatMap(({ whole: { nats, thought, terms } }) =>
    thought && terms
      ? [
          {
            kl: terms.kl.value,
            off: nats.value - terms.same_noise_nelbo.value,
            tighter: nats.value - thought.importanceWeighted.value,
          },
        ]
      : [],
  );
  const kl = range(
    models.map((own) => own.kl),
    4,
  );
  const off = range(
    models.map((own) => own.off),
    4,
  );
  const below = models.filter((own) => own.off > 0).length;
  const under = models.filter((own) => own.off > own.tighter).length;
  return `A thought costs ${kl} nats per token (KL). The same-noise figure lies below the bound in ${below} of ${models.length} models, below the importance-weighted bound in ${under}; the bound less that figure is ${off} nats per token.`;
}

function ofCost(rows: readonly Row[]): string {
  const { tokensPerSecond: fastest } = baselineRow(rows);
  const steps = [...new Set(rows.flatMap(({ cell }) => (cell ? [cell.steps] : [])))];
  const each = steps.map((own) => {
    const times = rows
      .filter(({ cell }) => cell?.steps === own)
      .map(({ tokensPerSecond }) => fastest / tokensPerSecond);
    return `${range(times, 1)} at T_fast ${own}`;
  });
  return `Training takes, in times of the baseline's, ${each.join(", ")}.`;
}

/** Answers: does more thought help, do more latents, is any model better than none of it. */
export function findings(rows: readonly Row[], effects: readonly Effect[]): string {
  return [
    effectFindings(effects, "T"),
    effectFindings(effects, "N"),
    againstBaseline(rows, "whole"),
    againstBaseline(rows, "continued"),
    ofNoise(rows),
    ofCost(rows),
  ].join("\n\n");
}
