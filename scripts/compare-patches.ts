// Patches as a dial: one flow on text8 at P = 1, 2 and 4, all else equal: what a token costs, how long a text takes, how good it is.
//
//   npx tsx scripts/compare-patches.ts --text8 FILE [--data FOLDER] [--tokens 10000000] [--out docs/patches]
//
// Flags, folders and going on after an interruption are those of compare-text8.ts, with which the runs at P = 1 are shared.

import { join } from "node:path";
import type { FlowModel } from "../lib/index.js";
import { asCommand } from "./comparison.js";
import { type PatchRow, patchFindings, patchRow, patchTable, workOf, write as writeTexts } from "./patches-report.js";
import { patchConfigurations, type Setup, trainings } from "./text8-configurations.js";
import { text8Command, write } from "./text8-flags.js";
import { resultOf, type Work } from "./text8-runs.js";

/** `texts`: how many every model writes. */
export async function comparePatches(work: Work, texts: number): Promise<PatchRow[]> {
  const { setup, engine } = work;
  const rows: PatchRow[] = [];
  for (const configuration of patchConfigurations(setup)) {
    const result = await resultOf(configuration, work);
    await using model: FlowModel = await engine.load(trainings(configuration, setup).at(-1)!.run, { family: "flow" });
    const written = await writeTexts(model, join(setup.data, "train.txt"), texts);
    rows.push(patchRow(configuration, result, { work: workOf(model.config, setup.length), written }));
    work.report(`${configuration.name}: ${texts} texts written`);
  }
  return rows;
}

export function page(setup: Setup, rows: readonly PatchRow[], threads: number): string {
  const layers = setup.layers.reduce((sum, count) => sum + count, 0);
  return `# Patches on text8

P tokens make one position of the flow's transformer, which then has a P-th of the positions to go through. One flow of ${layers} blocks of
width ${setup.width}, trained on ${(setup.tokens / 1e6).toFixed(2)} M characters as in [text8.md](text8.md), at every P. Made by \`scripts/compare-patches.ts\`.

${patchTable(rows)}

FLOPs are those of products and attention, of a pass over ${setup.length} characters, a multiply-add counted as two; a sequential inversion needs the
same. A mixture term is a density and a distribution function, once per scalar forward, two or three times in an inverse. The time is that of one
text of ${setup.length} characters, written alone by sequential inversion on ${threads} ${threads === 1 ? "thread" : "threads"} with weights in f32: the best of ${rows[0]?.written.texts} and, in brackets, the median.
Words known are those of these texts that stand anywhere in train.txt. mixture-rosenblatt takes the tokens of a patch as independent given
the patches before, and pays for it; the grouped head of mixture-cdf goes through all scalars of the patch in order.

${patchFindings(rows)}
`;
}

if (process.argv[1]?.endsWith("compare-patches.ts")) {
  await asCommand(() => {
    const command = text8Command("docs/patches");
    return write(command, async (work) => {
      const rows = await comparePatches(work, 32);
      return { page: page(work.setup, rows, work.engine.device.threads), figures: { rows } };
    });
  });
}
