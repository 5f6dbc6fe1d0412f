// Puts a run's checkpoint into a model folder, with a card that is made from the run's own records: nothing in it is typed by hand
// but the words around the figures.
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Engine, type Evaluation, evaluate, type MaskedModel, type TrainOptions } from "../lib/index.js";
import { readMetrics } from "../lib/training/metrics.js";
import {
  dataSection,
  heldOutSection,
  PROMPT,
  type RunRecords,
  SEEDS,
  samplesSection,
  trainingSection,
} from "./card-parts.js";

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

export interface CardParts extends RunRecords {
  model: Pick<MaskedModel, "info">;
  heldOut: Evaluation;
  texts: readonly string[];
}

/** The card's Markdown. */
export function card({ model, heldOut, texts, ...records }: CardParts): string {
  const { config, parameters } = model.info;
  const { hiddenSize: C, numLayers: L, numHeads: H, intermediateSize: F, vocabSize: V, maxPositions: T } = config;
  const bound = `${heldOut.draws} draws per window, ${heldOut.form} form; these are upper bounds, as for every masked-diffusion model.`;
  const sampling = `\`documentStart\`, rule \`${DECODING.rule}\` at temperature ${DECODING.temperature}, one token a step, at most 160 tokens.`;
  return `# tales-masked

A masked-diffusion language model that tells short children's stories. It is made to be small: it shows what noema does, and
serves its demo and tests. It knows nothing of the world beyond its stories and will contradict itself.

    noema generate models/tales-masked --prompt "${PROMPT}" --document-start --temperature ${DECODING.temperature} --seed 7

## What it is

LLaDA's layout, ${(parameters / 1e6).toFixed(2)} M parameters in bf16: ${L} blocks of width ${C}, ${H} heads of ${C / H}, SwiGLU of ${F}, tied embedding of
${V} byte-level tokens, ${T} positions. Trained and written by noema with \`scripts/train-tales-masked.ts\`.

${dataSection(records.options)}

${trainingSection(records, "Masks: LLaDA's form with times spread evenly over every batch.")}

${heldOutSection(heldOut, bound)}

${samplesSection(texts, sampling)}`;
}
