// What the cards of models/tales-* share: the run's files and records, tables and paragraphs that are made from them.
import { copyFile, mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Evaluation, TrainOptions } from "../lib/index.js";
import { type Metric, readMetrics } from "../lib/training/metrics.js";

/** A run that becomes a model. */
export interface Publication {
  /** Whose records the card tells. */
  run: string;
  folder: string;
  options: TrainOptions;
  /** How many of the last steps were an annealing branch; 0: none. */
  anneal: number;
  /** Of every held-out window. */
  draws: number;
}

/** The model's files: the checkpoint may be of another run than the curve. */
export async function copyModel({ run, folder }: Pick<Publication, "run" | "folder">, checkpoint = run): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const name of ["config.json", "model.safetensors", "tokenizer.json"])
    await copyFile(join(checkpoint, name), join(folder, name));
  await copyFile(join(run, "curve.svg"), join(folder, "curve.svg"));
}

export async function recordsOf({ run, options, anneal }: Publication): Promise<RunRecords> {
  const state = JSON.parse(await readFile(join(run, "state", "state.json"), "utf8"));
  return { state, metrics: await readMetrics(join(run, "metrics.jsonl")), options, anneal };
}

/** What a run says of itself. */
export interface RunRecords {
  state: { step: number; tokens: number; seconds: number };
  metrics: readonly Metric[];
  options: TrainOptions;
  /** How many of the last steps were an annealing branch; 0: none. */
  anneal: number;
}

export const SEEDS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
export const PROMPT = "Once upon a time";

export function dataSection({ corpus }: TrainOptions): string {
  const weight = (index: number) => {
    const file = corpus[index];
    return typeof file === "object" ? (file.weight ?? 1) : 1;
  };
  return `## Data

| text | licence | weight |
|---|---|---|
| TinyStories (excerpt of 12,658 stories) | CDLA-Sharing-1.0 | ${weight(0)} |
| African and PB storybooks, 710 stories | CC BY | ${weight(1)} |
| 44 children's books of Project Gutenberg | public domain (US) | ${weight(2)} |

Held out: 600 other stories of TinyStories.`;
}

/** `words`: what belongs to the family, after the sentence on the average. */
export function trainingSection({ state, metrics, options, anneal }: RunRecords, words: string): string {
  const fast = metrics.flatMap((metric) => (metric.type === "step" ? [metric.tokensPerSecond] : []));
  return `## Training

${state.step} of ${options.steps} steps of ${(options.batch ?? 0) * (options.length ?? 0)} tokens (${(state.tokens / 1e6).toFixed(1)} M tokens in ${(state.seconds / 3600).toFixed(1)} hours, median ${Math.round(median(fast))} tokens per second):
AdamW, peak rate ${options.rate}, ${options.warmup} steps of warm-up, ${options.schedule} to ${(options.floor ?? 0) * 100} %, weight decay ${options.weightDecay}, gradients clipped at ${options.clip}.
${annealing(state.step, anneal)}The checkpoint is the moving average of the weights (decay ${options.ema}). ${words}

![loss](curve.svg)`;
}

function annealing(step: number, anneal: number): string {
  if (anneal === 0) return "";
  return `The last ${anneal} steps are a branch that took the rate to its floor; the run at step ${step - anneal}, still at a high rate, may go on. `;
}

/** `words`: how the bound was estimated. `symbols`: what the tokenizer spells a text in, in words for one, where that is not the text itself. */
export function heldOutSection(heldOut: Evaluation, words: string, symbols = "character"): string {
  const perUnit = heldOut.isAltered
    ? `bits per ${symbols}, as the tokenizer spells the text | ${heldOut.bitsPerCharacter.toFixed(4)}`
    : `bits per byte | ${heldOut.bitsPerByte.toFixed(4)}`;
  return `## Held-out figures

| | at most |
|---|---|
| nats per token | ${heldOut.bound.toFixed(4)} ± ${heldOut.standardError.toFixed(4)} (standard error over ${heldOut.sequences} windows of ${heldOut.length} tokens) |
| perplexity per token | ${heldOut.perplexity.toFixed(2)} |
| ${perUnit} |

${words}`;
}

/** `words`: how the samples were made. */
export function samplesSection(texts: readonly string[], words: string): string {
  return `## Ten samples, not picked

Prompt "${PROMPT}", seeds ${SEEDS[0]} to ${SEEDS.at(-1)}, ${words}

${texts.map((text, i) => `${i + 1}. ${oneLine(text)}`).join("\n")}
`;
}

export function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** Markdown's own signs are taken literally. */
function oneLine(text: string): string {
  return text
    .replace(/\s+/g, " ")
    .replace(/[\\`*_<>[\]]/g, "\\$&")
    .trim();
}
