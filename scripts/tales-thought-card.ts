// models/tales-thought: the checkpoint of a run, and its card from the run's records and what evaluation says.
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Engine, type Evaluation, evaluate, type ThoughtModel } from "../lib/index.js";
import { thoughtPicture } from "../lib/thought/picture.js";
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

interface ThoughtPublication extends Publication {
  /** The run of the autoregressive model that continuations are compared with; need not be there. */
  baseline: string;
}

/** How the samples are drawn. */
const DRAW = { temperature: 0.8, topP: 0.95 };
const TOKENS = 160;
/** What the figures that need another fit are measured on. */
const WINDOWS = 128;
/** Tokens given of every window, where continuations are judged. */
const PREFIX = 64;
/** Steps of the fast loop, in times of the model's own, that are compared. */
const THINKING = [0, 1, 4];
/** What the picture shows. */
const SHOWN = "Tom saw a red ball in the park. He wanted to play with it.";

export async function publishThought(engine: Engine, publication: ThoughtPublication): Promise<void> {
  const { baseline, folder, options, draws } = publication;
  await copyModel(publication);
  await using model = await engine.load(folder, { family: "thought" });
  const files = options.heldOut ?? [];
  const heldOut = await evaluate(model, files, { draws });
  const { sameNoiseNelbo } = await evaluate(model, files, { draws: 1, limit: WINDOWS, sameNoise: true });
  const rest = { prefix: PREFIX, limit: WINDOWS };
  const continuation = await evaluate(model, files, { ...rest, draws });
  const compared = existsSync(join(baseline, "config.json"))
    ? await continuations(engine, baseline, files, rest)
    : undefined;
  const thinking: Evaluation[] = [];
  for (const times of THINKING) {
    const steps = times * model.config.inference.steps;
    thinking.push(await evaluate(model, files, { draws, limit: WINDOWS, think: { steps } }));
  }
  const prompts = SEEDS.map(() => PROMPT);
  const texts = (await model.generateBatch({ prompts, maxTokens: TOKENS, ...DRAW, seed: SEEDS[0]! })).map(
    ({ text }) => PROMPT + text,
  );
  const picture = thoughtPicture(await model.inspect(SHOWN), (id) => model.tokenizer!.decode([id]));
  await writeFile(join(folder, "thought.svg"), picture);
  const figures = { heldOut, sameNoiseNelbo: sameNoiseNelbo!, continuation, thinking, ...(compared && { compared }) };
  const records = await recordsOf(publication);
  await writeFile(join(folder, "README.md"), thoughtCard({ model, ...figures, texts, ...records }));
}

async function continuations(
  engine: Engine,
  folder: string,
  files: readonly string[],
  rest: { prefix: number; limit: number },
): Promise<Compared> {
  await using baseline = await engine.load(folder, { family: "autoregressive" });
  const { bound, standardError } = await evaluate(baseline, files, rest);
  return { bound, standardError, parameters: baseline.info.parameters };
}

interface Compared extends Pick<Evaluation, "bound" | "standardError"> {
  parameters: number;
}

export interface ThoughtCardParts extends RunRecords {
  model: Pick<ThoughtModel, "info">;
  heldOut: Evaluation;
  /** Over the first WINDOWS windows, as is the continuations' loss. */
  sameNoiseNelbo: number;
  continuation: Evaluation;
  /** By THINKING, over the first WINDOWS windows. */
  thinking: readonly Evaluation[];
  compared?: Compared;
  texts: readonly string[];
}

/** The card's Markdown. */
export function thoughtCard(parts: ThoughtCardParts): string {
  const { model, heldOut, texts, ...others } = parts;
  const { config, parameters } = model.info;
  const { hiddenSize: C, numHeads: H, numLayers: L, intermediateSize: F, vocabSize: V, numLatents: N } = config;
  const sampling = `thoughts fitted to the prompt, top-p ${DRAW.topP} at temperature ${DRAW.temperature}, at most ${TOKENS} tokens.`;
  return `# tales-thought

A latent thought model (LTM) that tells short children's stories: a thought of ${N} vectors is fitted to the prompt, and guides what is written
after it. It is made to be small: it shows what noema does, and serves its demo and tests. It knows nothing of the world beyond its
stories and will contradict itself.

    noema generate models/tales-thought --prompt "${PROMPT}" --temperature ${DRAW.temperature} --top-p ${DRAW.topP} --seed 7

## What it is

${(parameters / 1e6).toFixed(2)} M parameters in bf16: ${L} blocks of width ${C}, ${H} heads of ${C / H}, SwiGLU of ${F}, ${config.tiedEmbeddings ? "one embedding" : "an embedding and a head"} of ${V} byte-level tokens, ${config.maxPositions} positions,
of which every block sees the last ${config.attentionWindow}. Each block reads ${N / L} of the thought's vectors. A thought is fitted in ${config.inference.steps} steps. Trained and
written by noema with \`scripts/train-tales-thought.ts\`.

${dataSection(others.options)}

${trainingSection(others, trainingWords(parts))}

${heldOutSection(heldOut, boundWords(heldOut))}

${continuationSection(parts)}

## A thought

Of a text that was never trained on (\`noema inspect models/tales-thought --text "${SHOWN}" --svg thought.svg\`):

![thought](thought.svg)

${samplesSection(texts, sampling)}`;
}

function trainingWords({ options, anneal, model, state }: ThoughtCardParts): string {
  const { steps } = model.info.config.inference;
  const { fitSteps: few = 0, klWarmup: warmup = 0 } = options;
  if (state.step < warmup)
    throw new Error(`the run stands at step ${state.step}, before the end of its klWarmup of ${warmup}`);
  const own = `the model's own ${steps} steps`;
  const rising = warmup > 0 ? ` In the first ${warmup} steps the divergence's weight rose to 1.` : "";
  if (anneal > 0) return `The fast loop had few steps, but for the branch, where it had ${own}.${rising}`;
  return `The fast loop had ${few > 0 ? `at most ${few} steps` : own}.${rising}`;
}

function boundWords({ draws, thought, importanceWeighted }: Evaluation): string {
  return `Fresh-noise NELBO: every window's thought is fitted in ${thought!.steps.toFixed(0)} steps, then judged by ${draws} draws that the fit has not seen: an upper
bound. It is the sum of a cross-entropy of ${thought!.crossEntropy.toFixed(4)} and a KL divergence of ${thought!.kl.toFixed(4)}. Weighted by importance (IWAE-${draws}): at most ${importanceWeighted!.toFixed(4)}.`;
}

function continuationSection({ continuation, compared, sameNoiseNelbo, thinking }: ThoughtCardParts): string {
  const of = (found: Pick<Evaluation, "bound" | "standardError">) =>
    `${found.bound.toFixed(4)} ± ${found.standardError.toFixed(4)}`;
  const baseline = compared
    ? ` An autoregressive model of the same blocks (${(compared.parameters / 1e6).toFixed(2)} M parameters), trained on the same text for as many tokens, has ${of(compared)} on the same tokens, exactly.`
    : "";
  return `The same on the first ${WINDOWS} windows, when thoughts are fitted to a window's first ${PREFIX} tokens alone and the others are scored: at most ${of(continuation)} nats per
token.${baseline}

What thinking is worth on those windows; without a step thoughts are draws of the prior, and tell nothing of them:

| steps of the fast loop | nats per token, at most | cross-entropy | KL |
|---|---|---|---|
${thinking.map(thinkingRow).join("\n")}

What the paper's code would report for those windows, the draw that the fit was optimised against also being the one that is scored, is no bound on
anything: same_noise_nelbo ${sameNoiseNelbo.toFixed(4)} ([why](../../docs/likelihoods.md)).`;
}

function thinkingRow({ bound, standardError, thought }: Evaluation): string {
  const { steps, crossEntropy, kl } = thought!;
  return `| ${steps.toFixed(0)} | ${bound.toFixed(4)} ± ${standardError.toFixed(4)} | ${crossEntropy.toFixed(4)} | ${kl.toFixed(4)} |`;
}
