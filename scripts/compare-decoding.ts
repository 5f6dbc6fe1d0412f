// Compares convolutional with semi-autoregressive decoding (and full-canvas low confidence) at equal numbers of steps, on
// continuations of held-out texts: how much they repeat themselves, and what the model itself thinks of them.
//
//   npx tsx scripts/compare-decoding.ts models/tales-masked HELD_OUT.txt --prompts 32 --out docs/decoding
//
// Writes <out>.md and <out>.json. Deterministic: the same model, texts and options give the same figures.

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import type { DecodingOptions } from "../lib/decoding/resolve.js";
import { createEngine } from "../lib/index.js";
import type { MaskedModel } from "../lib/masked-model.js";
import { readPieces } from "../lib/training/text.js";

const stepCounts = [64, 32, 16];
const rules: Record<string, DecodingOptions> = {
  conv: { rule: "conv" },
  "semi-autoregressive": { rule: "semi-autoregressive" },
  "low-confidence": { rule: "low-confidence" },
};

interface Mean {
  mean: number;
  /** Of the mean, over the texts. */
  standardError: number;
}

export interface Row {
  rule: string;
  steps: number;
  texts: number;
  /** Share of 4-grams that occurred before in the same text. */
  repetition: Mean;
  /** Different pairs of neighbours over all pairs. */
  distinct2: Mean;
  /** The model's own bound on the text after its prompt. */
  natsPerToken: Mean;
  secondsPerText: number;
}

/** 1 - different n-grams / n-grams; 0 for texts without any. */
export function repeatedShare(ids: ArrayLike<number>, n: number): number {
  const grams = new Set<string>();
  const count = ids.length - n + 1;
  for (let i = 0; i < count; i++) grams.add(Array.from({ length: n }, (_, j) => ids[i + j]).join(" "));
  return count > 0 ? 1 - grams.size / count : 0;
}

export function meanOf(values: readonly number[]): Mean {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, standardError: Math.sqrt(squares / Math.max(1, values.length - 1) / values.length) };
}

interface Setting {
  tokens: number;
  draws: number;
  /** Text ends are ignored, so that all rules write equally much. */
  prompts: readonly Int32Array[];
}

async function measure(
  model: MaskedModel,
  rule: string,
  steps: number,
  { tokens, draws, prompts }: Setting,
): Promise<Row> {
  const repetition: number[] = [];
  const distinct: number[] = [];
  const nats: number[] = [];
  let milliseconds = 0;
  for (const [seed, prompt] of prompts.entries()) {
    const decoding = { ...rules[rule], steps, stopAtEos: false };
    const { ids, timing } = await model.generate({ prompt, maxTokens: tokens, decoding, seed });
    const bound = await model.score(ids, { context: prompt, draws });
    repetition.push(repeatedShare(ids, 4));
    distinct.push(1 - repeatedShare(ids, 2));
    nats.push(bound.nats / bound.tokens);
    milliseconds += timing.total;
  }
  const [four, two, bound] = [meanOf(repetition), meanOf(distinct), meanOf(nats)];
  const secondsPerText = milliseconds / 1000 / prompts.length;
  return { rule, steps, texts: prompts.length, repetition: four, distinct2: two, natsPerToken: bound, secondsPerText };
}

/** The first `length` tokens of the first `count` documents that are long enough. */
async function promptsOf(model: MaskedModel, file: string, count: number, length: number): Promise<Int32Array[]> {
  const prompts: Int32Array[] = [];
  let text = "";
  for await (const piece of readPieces(file)) {
    text += piece.text;
    if (!piece.last) continue;
    const ids = model.tokenizer!.encode(text);
    text = "";
    if (ids.length >= length) prompts.push(ids.slice(0, length));
    if (prompts.length === count) break;
  }
  return prompts;
}

const figure = ({ mean, standardError }: Mean, digits: number): string =>
  `${mean.toFixed(digits)} ± ${standardError.toFixed(digits)}`;

export function table(rows: readonly Row[]): string {
  const lines = rows.map((row) => {
    const cells = [
      row.rule,
      String(row.steps),
      figure(row.repetition, 3),
      figure(row.distinct2, 3),
      figure(row.natsPerToken, 3),
      row.secondsPerText.toFixed(2),
    ];
    return `| ${cells.join(" | ")} |`;
  });
  const head = "| rule | steps | repeated 4-grams | distinct-2 | nats per token | s per text |";
  return [head, "|---|---|---|---|---|---|", ...lines].join("\n");
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      prompts: { type: "string", default: "32" },
      "prompt-tokens": { type: "string", default: "24" },
      tokens: { type: "string", default: "128" },
      draws: { type: "string", default: "16" },
      out: { type: "string" },
    },
  });
  const [folder, file] = positionals;
  if (!folder || !file || !values.out) throw new Error("usage: compare-decoding.ts MODEL TEXT_FILE --out PATH");
  await using engine = await createEngine();
  await using model = await engine.load(folder, { family: "masked" });
  const tokens = Number(values.tokens);
  const prompts = await promptsOf(model, file, Number(values.prompts), Number(values["prompt-tokens"]));
  const setting = { tokens, draws: Number(values.draws), prompts };
  const rows: Row[] = [];
  for (const steps of stepCounts) {
    for (const rule of Object.keys(rules)) {
      rows.push(await measure(model, rule, steps, setting));
      process.stderr.write(`${rule}, ${steps} steps: done\n`);
    }
  }
  const about = `${prompts.length} prompts of ${values["prompt-tokens"]} tokens, ${tokens} new tokens each, text ends ignored; ± is the standard error over texts.`;
  mkdirSync(dirname(values.out), { recursive: true });
  writeFileSync(`${values.out}.md`, `# Decoding rules at equal numbers of steps\n\n${about}\n\n${table(rows)}\n`);
  writeFileSync(`${values.out}.json`, `${JSON.stringify({ ...values, rules, rows }, null, 2)}\n`);
}

if (process.argv[1]?.endsWith("compare-decoding.ts")) await main();
