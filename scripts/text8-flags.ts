// What the commands that train on text8 are told, and how they begin and end.
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { interruptible } from "../lib/cli/interrupt.js";
import { createEngine, NoemaError } from "../lib/index.js";
import { characterTokenizer, type Setup } from "./text8-configurations.js";
import type { Work } from "./text8-runs.js";

const options = {
  data: { type: "string" },
  runs: { type: "string", default: "runs/text8" },
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
} as const;

export interface Command {
  setup: Setup;
  threads: number;
  /** Without an ending. */
  out: string;
}

export function text8Command(defaultOut: string): Command {
  const { values } = parseArgs({ options: { ...options, out: { type: "string", default: defaultOut } } });
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
  return { setup, threads: number("threads"), out };
}

/** Does the work on an engine of its own, until it is done or Ctrl-C comes, and writes the page and the figures that it makes. */
export async function write(
  { setup, threads, out }: Command,
  make: (work: Work) => Promise<{ page: string; figures: object }>,
): Promise<void> {
  await using engine = await createEngine({ threads });
  const report = (line: string) => void process.stderr.write(`${line}\n`);
  await prepare(setup);
  const { page, figures } = await interruptible("interrupted; all is saved, the same command goes on", (signal) =>
    make({ engine, setup, signal, report }),
  );
  const { data: _, runs: __, ...settings } = setup;
  await mkdir(dirname(out), { recursive: true });
  await writeFile(`${out}.md`, page);
  await writeFile(`${out}.json`, `${JSON.stringify({ ...settings, device: engine.device, ...figures }, null, 2)}\n`);
}

/** What all runs need. */
export async function prepare({ runs }: Setup): Promise<void> {
  await mkdir(runs, { recursive: true });
  await writeFile(join(runs, "tokenizer.json"), characterTokenizer());
}

/** Being interrupted is no fault. */
export async function asCommand(run: () => Promise<void>): Promise<void> {
  await run().catch((error: unknown) => {
    if (!(error instanceof NoemaError) || error.code !== "ERR_ABORTED") throw error;
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  });
}
