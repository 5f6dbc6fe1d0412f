// Compares flows with an autoregressive baseline on text8, at a small budget that is the same for all: affine, mixture-cdf and
// mixture-rosenblatt maps, each as one flow and as a stack of three in alternating directions.
//
//   npx tsx scripts/compare-text8.ts --data FOLDER [--tokens 10000000] [--out docs/text8]
//
// FOLDER holds train.txt, valid.txt and test.txt: text8, in lower-case letters and spaces. Writes <out>.md and <out>.json. May be
// stopped at any time (Ctrl-C); the same command goes on. Runs and results live in --runs, and what is finished there is not repeated.
// --tokens is what each configuration is trained on: the default takes about an hour on two cores. The same text, flags and machine give the
// same figures, but for the times.
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { interruptible } from "../lib/cli/interrupt.js";
import { createEngine, NoemaError } from "../lib/index.js";
import { characterTokenizer, configurations, type Setup } from "./text8-configurations.js";
import { findings, type Row, rowsOf, stackTable, table } from "./text8-report.js";
import { type Result, resultOf, type Work } from "./text8-runs.js";

/** Trains and judges every configuration, one after the other. */
export async function compareText8(work: Work): Promise<Row[]> {
  const { setup } = work;
  await mkdir(setup.runs, { recursive: true });
  await writeFile(join(setup.runs, "tokenizer.json"), characterTokenizer());
  const found: { configuration: ReturnType<typeof configurations>[number]; result: Result }[] = [];
  for (const configuration of configurations(setup))
    found.push({ configuration, result: await resultOf(configuration, work) });
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
data going forward. A stack trained flow by flow divides the characters in proportion to the flows' layers. ± is the standard error over windows:
each model was trained once, so what another seed would change is not in it. Made by \`scripts/compare-text8.ts\`.

${table(rows)}

What the flows of a stack do, in bits per character of test.txt; the last column is against one flow of the same kind that has all the layers,
window by window.

${stackTable(rows)}

## Do flows above the first pay?

${findings(rows)}
`;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      data: { type: "string" },
      runs: { type: "string", default: "runs/text8" },
      out: { type: "string", default: "docs/text8" },
      tokens: { type: "string", default: "10000000" },
      width: { type: "string", default: "128" },
      heads: { type: "string", default: "4" },
      layers: { type: "string", default: "2,2,2" },
      length: { type: "string", default: "256" },
      batch: { type: "string", default: "16" },
      rate: { type: "string", default: "0.003" },
      seed: { type: "string", default: "1" },
      windows: { type: "string", default: "0" },
      threads: { type: "string", default: "0" },
    },
  });
  const { data, runs, out } = values;
  if (!data) throw new Error("--data FOLDER: where train.txt, valid.txt and test.txt are");
  const layers = values.layers.split(",").map(Number);
  if (layers.length !== 3 || !layers.every((count) => Number.isInteger(count) && count > 0))
    throw new Error("--layers: expected those of three flows, like 2,2,2");
  const number = (name: Exclude<keyof typeof values, "data" | "runs" | "out" | "layers">): number => {
    const value = Number(values[name]);
    if (!Number.isFinite(value)) throw new Error(`--${name}: "${values[name]}" is no number`);
    return value;
  };
  const setup: Setup = {
    ...{ data, runs, layers: layers as [number, number, number] },
    ...{ tokens: number("tokens"), width: number("width"), heads: number("heads"), length: number("length") },
    ...{ batch: number("batch"), rate: number("rate"), seed: number("seed"), windows: number("windows") },
  };
  await using engine = await createEngine({ threads: number("threads") });
  const report = (line: string) => void process.stderr.write(`${line}\n`);
  const rows = await interruptible("interrupted; all is saved, the same command goes on", (signal) =>
    compareText8({ engine, setup, signal, report }),
  );
  const { data: _, runs: __, ...settings } = setup;
  await mkdir(dirname(out), { recursive: true });
  await writeFile(`${out}.md`, page(setup, rows));
  await writeFile(`${out}.json`, `${JSON.stringify({ ...settings, device: engine.device, rows }, null, 2)}\n`);
}

if (process.argv[1]?.endsWith("compare-text8.ts")) {
  await main().catch((error: unknown) => {
    if (!(error instanceof NoemaError) || error.code !== "ERR_ABORTED") throw error;
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  });
}
