// What scripts/compare-patches.ts measures of a flow at some P, and its table.
import { readFile } from "node:fs/promises";
import { noemaFlow } from "../lib/checkpoint/noema-flow.js";
import type { FlowConfig, FlowModel } from "../lib/index.js";
import { markdown } from "./comparison-report.js";
import type { Configuration } from "./text8-configurations.js";
import { type Estimate, estimate, figure } from "./text8-report.js";
import type { Result } from "./text8-runs.js";

export interface Work {
  /** Multiply-adds count as two. Of products and attention, per token, a forward pass or a sequential inversion alike. */
  flops: number;
  /** Terms of mixtures, each a density and a distribution function, per token and pass. */
  terms: number;
}

export interface Written {
  texts: number;
  /** Tokens of each. */
  length: number;
  /** Of one text alone, by sequential inversion: the best and the median. */
  milliseconds: { best: number; median: number };
  /** Share of the words that stand in the training text. */
  words: number;
}

export interface PatchRow {
  name: string;
  kind: string;
  patchSize: number;
  bitsPerCharacter: Estimate;
  parameters: number;
  tokensPerSecond: number;
  work: Work;
  written: Written;
}

/** What a position is not multiplied by: what is added, looked up, or read off beside the flow. */
const noProduct = /^codebook|\.bias$|\.embed\.|\.readout\.|components\./;

/** Of texts of `length` tokens (tarflowlm.md section 4). */
export function workOf(config: FlowConfig, length: number): Work {
  const { patchSize: P, latentSize: d, hiddenSize: C } = config;
  let weights = 0;
  for (const { name, shape } of noemaFlow.tensors(config)) {
    if (shape.length < 2 || noProduct.test(name)) continue;
    // Of the grouped head's features a scalar reads those before it: half of the matrix.
    weights += shape.reduce((size, n) => size * n, 1) * (name.includes("maf.features") ? 0.5 : 1);
  }
  const layers = config.flows.reduce((sum, { numLayers }) => sum + numLayers, 0);
  // Scores and weighted values, of half the positions on average.
  const attention = 4 * layers * C * ((length / P + 1) / 2);
  const terms = config.flows.map((stage) => (stage.kind === "affine" ? 0 : (stage.numComponents ?? config.vocabSize)));
  return { flops: (2 * weights + attention) / P, terms: d * terms.reduce((sum, own) => sum + own, 0) };
}

/** Words of a text, but for the first and the last, which may be cut. */
const wordsOf = (text: string): string[] =>
  text
    .split(" ")
    .slice(1, -1)
    .filter((word) => word.length > 0);

/** Writes `texts` texts one by one, and looks their words up in the file. */
export async function write(model: FlowModel, file: string, texts: number): Promise<Written> {
  const known = new Set((await readFile(file, "utf8")).split(" "));
  const length = model.config.maxPositions * model.config.patchSize;
  const times: number[] = [];
  let words = 0;
  let right = 0;
  for (let seed = 0; seed < texts; seed++) {
    const { text, timing } = await model.generate({ maxTokens: length, seed });
    times.push(timing.total);
    for (const word of wordsOf(text)) {
      words++;
      if (known.has(word)) right++;
    }
  }
  times.sort((a, b) => a - b);
  const milliseconds = { best: times[0]!, median: times[times.length >> 1]! };
  return { texts, length, milliseconds, words: words === 0 ? 0 : right / words };
}

export function patchRow(
  { name, kind, patchSize }: Configuration,
  { nats, tokens, parameters, tokensPerSecond }: Result,
  { work, written }: { work: Work; written: Written },
): PatchRow {
  const bitsPerCharacter = estimate(nats, tokens);
  return { name, kind, patchSize, bitsPerCharacter, parameters, tokensPerSecond, work, written };
}

export function patchTable(rows: readonly PatchRow[]): string {
  const head = [
    ...["flow", "P", "kFLOPs per token", "mixture terms per token", "ms per text", "training tokens per second"],
    ...["parameters", "bits per character", "words known"],
  ];
  const body = rows.map(({ kind, patchSize, work, written, ...row }) => [
    ...[kind, String(patchSize), (work.flops / 1e3).toFixed(0), String(work.terms)],
    `${written.milliseconds.best.toFixed(1)} (${written.milliseconds.median.toFixed(1)})`,
    row.tokensPerSecond.toFixed(0),
    `${(row.parameters / 1e6).toFixed(2)} M`,
    `at most ${figure(row.bitsPerCharacter)}`,
    `${(100 * written.words).toFixed(1)} %`,
  ]);
  return markdown(head, body);
}

/** What a patch of `patchSize` costs and saves against one flow of single tokens, of every kind: from the figures alone. */
export function patchFindings(rows: readonly PatchRow[]): string {
  const lines = rows.flatMap((row) => {
    const single = rows.find(({ kind, patchSize }) => kind === row.kind && patchSize === 1);
    if (!single || row === single) return [];
    const faster = single.written.milliseconds.median / row.written.milliseconds.median;
    const less = single.work.flops / row.work.flops;
    const cost = row.bitsPerCharacter.bits - single.bitsPerCharacter.bits;
    const words = `${cost >= 0 ? `${cost.toFixed(3)} bits per character more` : `${(-cost).toFixed(3)} bits per character less`}`;
    return [
      `- ${row.kind}, P = ${row.patchSize}: ${less.toFixed(2)} times fewer FLOPs, texts ${faster.toFixed(2)} times as fast, ${words}.`,
    ];
  });
  return lines.join("\n");
}
