// Compares flows with an autoregressive baseline on text8, at a small budget that is the same for all: affine, mixture-cdf and
// mixture-rosenblatt maps, each as one flow and as a stack of three in alternating directions.
//
//   npx tsx scripts/compare-text8.ts --text8 FILE [--data FOLDER] [--tokens 10000000] [--out docs/text8]
//
// FILE is text8 as it is published, unpacked; its beginning is cut into train.txt, valid.txt and test.txt of FOLDER (default: data in --runs).
// That is a split of our own, of 11.5, 0.5 and 0.55 MB, not the published one of 90, 5 and 5. With --data alone they are there already. Writes <out>.md and <out>.json. May be
// stopped at any time (Ctrl-C); the same command goes on. Runs and results live in --runs, and what is finished there is not repeated.
// --tokens is what each configuration is trained on: the default takes about an hour on two cores. The same text, flags and machine give the
// same figures, but for the times.
import { asCommand } from "./comparison.js";
import { configurations, type Setup } from "./text8-configurations.js";
import { text8Command, write } from "./text8-flags.js";
import { type Found, findings, levels, type Row, rowsOf, stackTable, table } from "./text8-report.js";
import { readingsOf, resultOf, type Work } from "./text8-runs.js";

/** Trains and judges every configuration, one after the other. */
export async function compareText8(work: Work): Promise<Row[]> {
  const { setup } = work;
  const found: Found[] = [];
  for (const configuration of configurations(setup)) {
    const result = await resultOf(configuration, work);
    found.push({ configuration, result, readings: await readingsOf(configuration, work) });
  }
  return rowsOf(found, setup);
}

/** The page: what was compared, the tables, what they say. */
export function page(setup: Setup, rows: readonly Row[]): string {
  const { width, layers, length, batch, windows } = setup;
  const total = layers.reduce((sum, count) => sum + count, 0);
  return `# Flows on text8

All models have ${total} transformer blocks of width ${width}, were trained on the same ${(setup.tokens / 1e6).toFixed(2)} M characters of text8, ${batch} windows of ${length} a step,
with the same optimiser, and are judged on ${windows === 0 ? "all of" : `the first ${windows} windows of`} test.txt. Symbols are tokens: 27, and the end-of-text token that training needs. A flow models
every character of a window, the first one from its start vector; so does the autoregressive model, from an end-of-text token in front.
Its figures are exact; those of flows are upper bounds, from one draw of latents per window. Stacks alternate directions, the first flow nearest the
data going forward. A stack trained flow by flow divides the characters in proportion to the flows' layers; one trained with its beginnings is trained
jointly, and a tenth of its objective are the bounds that its first flow and its first two reach alone. ± is the standard error over windows:
each model was trained once, so what another seed would change is not in it. The text is a cut of our own, the first 12.55 MB of text8 as
11.5 MB of train.txt, 0.5 of valid.txt and 0.55 of test.txt, not the published split: figures compare with each other, not with published
ones. Made by \`scripts/compare-text8.ts\`, which makes the cut from the published file, too (\`--text8 FILE\`).

${table(rows)}

What the flows of a stack do, in bits per character of test.txt, and how they do against one flow of the same kind that has all the layers, window
by window. The last column is how many of valid.txt's characters the states above the data's read as, from the first flow's on, by readouts
trained for it: a state that reads as the text differs little from the data, one that reads as little else than the commonest character is noise.

${stackTable(rows)}

## Do flows above the first pay?

${findings(rows)}

## Do the states differ?

${levels(rows)}
`;
}

if (process.argv[1]?.endsWith("compare-text8.ts")) {
  await asCommand(() => {
    const command = text8Command("docs/text8");
    return write(command, async (work) => {
      const rows = await compareText8(work);
      return { page: page(work.setup, rows), figures: { rows } };
    });
  });
}
