// models/tales-flow: the checkpoint of a run of readouts, and its card from the records of both runs.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { statesPicture } from "../lib/flow/picture.js";
import { type DraftMeasure, type Engine, type Evaluation, evaluate, type FlowModel } from "../lib/index.js";
import { type HeldOutMetric, type Metric, readMetrics } from "../lib/training/metrics.js";
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

/** What a card says of its model that no record does. */
export interface FlowAbout {
  /** Under models/. */
  name: string;
  /** What it is, the first sentence. */
  introduction: string;
  /** What its symbols are, in the plural. */
  symbols: string;
  /** One of them, where each is a character of the text. */
  symbol?: string;
  /** How its flows were trained, and by what. */
  training: string;
  /** How samples are drawn, and how many symbols each has at most. */
  draw: { temperature: number; topP?: number };
  tokens: number;
}

interface FlowPublication extends Publication {
  about: FlowAbout;
  /** The run of the flows' readouts, whose checkpoint is published. */
  readouts: string;
}

const DRAFT_TEXTS = 64;
/** What the picture of the states shows. */
const SHOWN = "Tom saw a red ball in the park. He wanted to play with it.";

export async function publishFlow(engine: Engine, publication: FlowPublication): Promise<void> {
  const { about, readouts, folder, options, draws } = publication;
  await copyModel(publication, readouts);
  await using model = await engine.load(folder, { family: "flow" });
  const heldOut = await evaluate(model, options.heldOut ?? [], { draws });
  const prompts = SEEDS.map(() => PROMPT);
  const settings = { documentStart: true, maxTokens: about.tokens, ...about.draw, seed: SEEDS[0]! };
  const texts = (await model.generateBatch({ prompts, ...settings })).map(({ text }) => PROMPT + text);
  const drafts = await model.measureDrafts({ count: DRAFT_TEXTS });
  const picture = statesPicture(await model.inspect(SHOWN), (id) => model.tokenizer!.decode([id]));
  await writeFile(join(folder, "states.svg"), picture);
  const readings = lastHeldOut(await readMetrics(join(readouts, "metrics.jsonl"))).readouts!;
  const records = await recordsOf(publication);
  await writeFile(join(folder, "README.md"), flowCard({ about, model, heldOut, texts, drafts, readings, ...records }));
}

function lastHeldOut(metrics: readonly Metric[]): HeldOutMetric {
  const found = metrics.findLast((metric) => metric.type === "held-out");
  if (!found) throw new Error("the run was never evaluated");
  return found;
}

export interface FlowCardParts extends RunRecords {
  about: FlowAbout;
  model: Pick<FlowModel, "info">;
  heldOut: Evaluation;
  texts: readonly string[];
  drafts: readonly DraftMeasure[];
  readings: NonNullable<HeldOutMetric["readouts"]>;
}

/** The card's Markdown. */
export function flowCard({ about, model, heldOut, texts, drafts, readings, ...records }: FlowCardParts): string {
  const { name, draw } = about;
  const { config, parameters } = model.info;
  const { hiddenSize: C, numHeads: H, intermediateSize: F, vocabSize: V, latentSize: d, maxPositions: T } = config;
  const stack = config.flows.map(({ kind, direction, numLayers }) => `${numLayers} blocks, ${kind}, ${direction}`);
  const { gains } = lastHeldOut(records.metrics).flows!;
  const weighted = heldOut.importanceWeighted;
  const bound = `${heldOut.draws} draws per window, telescoped NELBO: upper bounds.${
    weighted === undefined ? "" : ` Weighted by importance over the draws: ${weighted.toFixed(4)} nats per token.`
  }`;
  const below = config.flows.length === 2 ? "flow" : "flows";
  const drawn =
    draw.topP === undefined
      ? `base noise at temperature ${draw.temperature}, all flows`
      : `an ancestral draw with top-p ${draw.topP} at temperature ${draw.temperature}, the ${below} below`;
  const sampling = `\`documentStart\`, ${drawn} inverted sequentially, at most ${about.tokens} tokens.`;
  const flags = Object.entries({ "--temperature": draw.temperature, ...(draw.topP && { "--top-p": draw.topP }) });
  return `# ${name}

${about.introduction}: noise in, text out, and text in, noise out, through invertible transformers. It is
made to be small: it shows what noema does, and serves its demo and tests. It knows nothing of the world beyond its stories and will
contradict itself.

    noema generate models/${name} --prompt "${PROMPT}" --document-start ${flags.flat().join(" ")} --seed 7

## What it is

${(parameters / 1e6).toFixed(2)} M parameters in bf16: ${V} ${about.symbols} with ${d} latent channels each, ${T} positions; blocks of width ${C}, ${H} heads of
${C / H}, SwiGLU of ${F}. The flows, the first nearest the data:

${stack.map((line, l) => `${l + 1}. ${line}`).join("\n")}

${about.training}; it continues prompts (prefix conditioning).

${dataSection(records.options)}

${trainingSection(records, "Half of the native calls had a prefix of random length; the reconstruction's weight fell from 2 to 1.")}

${heldOutSection(heldOut, bound, about.symbol)}

Off the bound, in nats per token, by the run's own monitor (128 windows, one draw): the first flow alone would reach ${gains[0]!.toFixed(3)};
${gains
  .slice(1)
  .map((gain, i) => `flow ${i + 2} takes off ${gain.toFixed(3)}`)
  .join(", ")}.

## Reading the states

Every state above the data's has a small readout (two layers, position by position). How often it is right on held-out text, and how often
it agrees with what the state becomes when ${DRAFT_TEXTS} texts are written from nothing:

| state | right on held-out text | agrees with the text in the end | from noise, ms per text |
|---|---|---|---|
${drafts.map((draft) => draftRow(draft, readings.accuracy)).join("\n")}

A text that was never trained on, state by state (\`noema inspect models/${name} --text "${SHOWN}" --svg states.svg\`):

![states](states.svg)

${samplesSection(texts, sampling)}`;
}

function draftRow({ level, agreement, milliseconds }: DraftMeasure, accuracy: readonly number[]): string {
  const percent = (share: number | undefined) => (share === undefined ? "" : `${(100 * share).toFixed(1)} %`);
  const right = level === 0 ? undefined : accuracy[level - 1];
  const name = level === 0 ? "0, the data's latents" : String(level);
  return `| ${name} | ${percent(right)} | ${percent(agreement)} | ${milliseconds.toFixed(0)} |`;
}
