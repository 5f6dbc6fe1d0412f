// Puts a run's checkpoint into a model folder, with a card that is made from the run's own records: nothing in it is typed by hand
// but the words around the figures.
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Engine, type Evaluation, evaluate, type MaskedModel, type TrainOptions } from "../lib/index.js";
import { type Metric, readMetrics } from "../lib/training/metrics.js";

interface Publication {
  run: string;
  folder: string;
  options: TrainOptions;
  /** How many of the last steps were an annealing branch; 0: none. */
  anneal: number;
  /** Corruptions of every held-out window. */
  draws: number;
}

const FILES = ["config.json", "model.safetensors", "tokenizer.json", "curve.svg"];
const SEEDS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
const PROMPT = "Once upon a time";
const DECODING = { rule: "conv", temperature: 0.8 };

export async function publishTales(
  engine: Engine,
  { run, folder, options, anneal, draws }: Publication,
): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const name of FILES) await copyFile(join(run, name), join(folder, name));
  await using model = await engine.load(folder, { precision: "bf16", family: "masked" });
  const heldOut = await evaluate(model, options.heldOut ?? [], { draws });
  const texts: string[] = [];
  for (const seed of SEEDS) {
    const { text } = await model.generate({
      ...{ prompt: PROMPT, documentStart: true, maxTokens: 160, seed, decoding: DECODING },
    });
    texts.push(PROMPT + text);
  }
  const state = JSON.parse(await readFile(join(run, "state", "state.json"), "utf8"));
  const metrics = await readMetrics(join(run, "metrics.jsonl"));
  await writeFile(join(folder, "README.md"), card({ model, heldOut, texts, state, metrics, options, anneal }));
}

export interface CardParts {
  model: Pick<MaskedModel, "info">;
  heldOut: Evaluation;
  texts: readonly string[];
  state: { step: number; tokens: number; seconds: number };
  metrics: readonly Metric[];
  options: TrainOptions;
  anneal: number;
}

/** The card's Markdown. */
export function card({ model, heldOut, texts, state, metrics, options, anneal }: CardParts): string {
  const { config, parameters } = model.info;
  const { hiddenSize: C, numLayers: L, numHeads: H, intermediateSize: F, vocabSize: V, maxPositions: T } = config;
  const fast = metrics.flatMap((metric) => (metric.type === "step" ? [metric.tokensPerSecond] : []));
  return `# tales-masked

A masked-diffusion language model that tells short children's stories. It is made to be small: it shows what noema does, and
serves its demo and tests. It knows nothing of the world beyond its stories and will contradict itself.

    noema generate models/tales-masked --prompt "${PROMPT}" --document-start --temperature ${DECODING.temperature} --seed 7

## What it is

LLaDA's layout, ${(parameters / 1e6).toFixed(2)} M parameters in bf16: ${L} blocks of width ${C}, ${H} heads of ${C / H}, SwiGLU of ${F}, tied embedding of
${V} byte-level tokens, ${T} positions. Trained and written by noema with \`scripts/train-tales-masked.ts\`.

## Data

| text | licence | weight |
|---|---|---|
| TinyStories (excerpt of 12,658 stories) | CDLA-Sharing-1.0 | ${weightOf(options, 0)} |
| African and PB storybooks, 710 stories | CC BY | ${weightOf(options, 1)} |
| 44 children's books of Project Gutenberg | public domain (US) | ${weightOf(options, 2)} |

Held out: 600 other stories of TinyStories.

## Training

${state.step} of ${options.steps} steps of ${(options.batch ?? 0) * (options.length ?? 0)} tokens (${(state.tokens / 1e6).toFixed(1)} M tokens in ${(state.seconds / 3600).toFixed(1)} hours, median ${Math.round(median(fast))} tokens per second):
AdamW, peak rate ${options.rate}, ${options.warmup} steps of warm-up, ${options.schedule} to ${(options.floor ?? 0) * 100} %, weight decay ${options.weightDecay}, gradients clipped at ${options.clip}.
${annealing(state.step, anneal)}The checkpoint is the moving average of the weights (decay ${options.ema}). Masks: LLaDA's form with times spread evenly over every batch.

![loss](curve.svg)

## Held-out figures

| | at most |
|---|---|
| nats per token | ${heldOut.bound.toFixed(4)} ± ${heldOut.standardError.toFixed(4)} (standard error over ${heldOut.sequences} windows of ${heldOut.length} tokens) |
| perplexity per token | ${heldOut.perplexity.toFixed(2)} |
| bits per byte | ${heldOut.bitsPerByte.toFixed(4)} |

${heldOut.draws} draws per window, ${heldOut.form} form; these are upper bounds, as for every masked-diffusion model.

## Ten samples, not picked

Prompt "${PROMPT}", seeds 1 to 10, \`documentStart\`, rule \`${DECODING.rule}\` at temperature ${DECODING.temperature}, one token a step, at most 160 tokens.

${texts.map((text, i) => `${i + 1}. ${oneLine(text)}`).join("\n")}
`;
}

function annealing(step: number, anneal: number): string {
  if (anneal === 0) return "";
  return `The last ${anneal} steps are a branch that took the rate to its floor; the run at step ${step - anneal}, still at a high rate, may go on. `;
}

function weightOf({ corpus }: TrainOptions, index: number): number {
  const file = corpus[index];
  return typeof file === "object" ? (file.weight ?? 1) : 1;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** Markdown's own signs are taken literally. */
function oneLine(text: string): string {
  return text
    .replace(/\s+/g, " ")
    .replace(/[\\`*_<>[\]]/g, "\\$&")
    .trim();
}
