// Puts a run's checkpoint into a model folder, with a card that is made from the run's own records: nothing in it is typed by hand
// but the words around the figures.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Engine, type Evaluation, evaluate, type MaskedModel } from "../lib/index.js";
import {
  copyModel,
  dataSection,
  heldOutSection,
  PROMPT,
  type Publication,
  type RunRecords,
  recordsOf,
  SEEDS,
  samplesSection,
  trainingSection,
} from "./card-parts.js";

const DECODING = { rule: "conv", temperature: 0.8 };

export async function publishTales(engine: Engine, publication: Publication): Promise<void> {
  const { folder, options, draws } = publication;
  await copyModel(publication);
  await using model = await engine.load(folder, { precision: "bf16", family: "masked" });
  const heldOut = await evaluate(model, options.heldOut ?? [], { draws });
  const texts: string[] = [];
  for (const seed of SEEDS) {
    const { text } = await model.generate({
      ...{ prompt: PROMPT, documentStart: true, maxTokens: 160, seed, decoding: DECODING },
    });
    texts.push(PROMPT + text);
  }
  const records = await recordsOf(publication);
  await writeFile(join(folder, "README.md"), card({ model, heldOut, texts, ...records }));
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
