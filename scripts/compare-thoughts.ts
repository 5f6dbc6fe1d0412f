// Compares latent thought models with more and fewer steps of the fast loop (T_fast) and with more and fewer latents (N), and with an
// autoregressive baseline of the same blocks, at a small budget that is the same for all.
//
//   npx tsx scripts/compare-thoughts.ts --data FOLDER [--tokens 1000000] [--runs runs/thoughts] [--out docs/thoughts] [--threads 0]
//
// FOLDER holds the text of scripts/train-tales-masked.ts. Writes <out>.md and <out>.json. May be stopped at any time (Ctrl-C); the same
// command goes on. Runs and results live in --runs, and what is finished there is not repeated: --fast and --latents may get more values.
// --tokens is what each model is trained on. The same text, flags and machine give the same figures, but for the times.
import { parseArgs } from "node:util";
import { asCommand, type Command, counts, numbers, write } from "./comparison.js";
import { configurations, loopOf, type Setup } from "./thoughts-configurations.js";
import {
  boundsTable,
  continuationsTable,
  costTable,
  type Effect,
  effectsOf,
  type Found,
  findings,
  type Row,
  rowsOf,
} from "./thoughts-report.js";
import { resultOf, type Work } from "./thoughts-runs.js";

const options = {
  data: { type: "string" },
  runs: { type: "string", default: "runs/thoughts" },
  out: { type: "string", default: "docs/thoughts" },
  fast: { type: "string", default: "4,16,64" },
  latents: { type: "string", default: "12,24,48" },
  tokens: { type: "string", default: "1000000" },
  width: { type: "string", default: "128" },
  heads: { type: "string", default: "2" },
  layers: { type: "string", default: "3" },
  window: { type: "string", default: "16" },
  length: { type: "string", default: "256" },
  batch: { type: "string", default: "8" },
  rate: { type: "string", default: "0.002" },
  seed: { type: "string", default: "1" },
  windows: { type: "string", default: "0" },
  draws: { type: "string", default: "16" },
  prefix: { type: "string", default: "64" },
  threads: { type: "string", default: "0" },
} as const;

function thoughtsCommand(): Command<Setup> {
  const { values } = parseArgs({ options });
  const { data, runs, out, fast, latents, ...others } = values;
  if (!data) throw new Error("--data FOLDER: where tinystories.train.txt and the other texts are");
  const { threads, ...settings } = numbers(others);
  const table = { fast: counts("fast", fast), latents: counts("latents", latents) };
  return { setup: { data, runs, ...table, ...settings }, threads, out };
}

export interface Comparison {
  rows: Row[];
  effects: Effect[];
}

/** Trains and judges every model, one after the other. */
export async function compareThoughts(work: Work): Promise<Comparison> {
  const found: Found[] = [];
  for (const configuration of configurations(work.setup))
    found.push({ configuration, result: await resultOf(configuration, work) });
  return { rows: rowsOf(found, work.setup), effects: effectsOf(found) };
}

/** What fits in training and in judging are made by. */
function loops({ fast }: Setup): string {
  const each = fast.map((count) => {
    const { schedule, learningRate, logVarianceInit } = loopOf(count);
    const [first, last] = schedule === "cosine" ? [learningRate[1], learningRate[1] / 10] : learningRate;
    return `T_fast ${count}: ${schedule}, from ${first} to ${Number(last.toFixed(3))}, log-variances from ${logVarianceInit}`;
  });
  return each.join("; ");
}

/** The page: what was compared, the tables, what they say. */
export function page(setup: Setup, { rows, effects }: Comparison): string {
  const { layers, width, heads, window, length, batch, windows, draws, prefix, tokens } = setup;
  const judges = windows === 0 ? "all windows" : `the first ${windows} windows`;
  return `# More thought, more latents

Latent thought models of ${layers} blocks of width ${width}, ${heads} heads, that see ${window} keys per layer: T_fast steps of the fast loop fit N latent vectors (of all
layers together) to every sequence. Each was trained on the same ${(tokens / 1e6).toFixed(2)} M tokens of children's stories, ${batch} sequences of ${length} a step, with the
same optimiser and the noise of the loop drawn anew at every step; in the first half of the training the divergence's weight rises to 1, since a decoder that
meets nothing but noise first never learns to listen. Each is judged, with the T_fast that it was trained with, on ${judges} of ${length} tokens
of tinystories.valid.txt. The loop's rates and starts are such that log-variances arrive at the prior's: what they lack every coordinate
would pay for (${loops(setup)}). The baseline is an autoregressive model of the same blocks without what reads latents. It sees all keys. Embedding and
head share nothing in any of them: parameters are counted with and without them. ± is the standard error over windows, those of
differences window by window; "for certain" means two of them, which chance alone passes once in twenty comparisons. Each model was trained once, so what
another seed would change is not in it. Made by \`scripts/compare-thoughts.ts\`; what such figures mean is told in [likelihoods.md](likelihoods.md).

## Bounds

Nats per token. The baseline's figure is exact; a thought model's is the mean over ${draws} draws that the fit has not seen, cross-entropy and KL divergence
together, and IWAE-${draws} the bound weighted by importance over them. same_noise_nelbo scores a fit by the very draw that it was fitted to.

${boundsTable(rows, draws)}

## Continuations

Nats per token of what follows the first ${prefix} tokens of a window. A thought is fitted to these ${prefix} alone, so nothing is paid for it: the loss is the mean over
${draws} draws, and averaged over draws that of their mean likelihood.

${continuationsTable(rows)}

## Cost

${costTable(rows)}

## What this says

${findings(rows, effects)}
`;
}

if (process.argv[1]?.endsWith("compare-thoughts.ts")) {
  await asCommand(() =>
    write(thoughtsCommand(), async (work) => {
      const comparison = await compareThoughts(work);
      return { page: page(work.setup, comparison), figures: comparison };
    }),
  );
}
