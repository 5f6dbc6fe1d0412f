// What the commands that train on text8 are told, and what their runs need.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { characterTokenizer, LETTERS } from "./character-tokenizer.js";
import { type Command, counts, numbers, write as writeAny } from "./comparison.js";
import type { Setup } from "./text8-configurations.js";
import { cutText8 } from "./text8-cut.js";
import type { Work } from "./text8-runs.js";

const options = {
  data: { type: "string" },
  text8: { type: "string" },
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

export interface Text8Command extends Command<Setup> {
  /** The published file, to be cut into the setup's folder first. */
  text8: string | undefined;
}

export function text8Command(defaultOut: string): Text8Command {
  const { values } = parseArgs({ options: { ...options, out: { type: "string", default: defaultOut } } });
  const { text8, runs, out, layers, data = text8 && join(runs, "data"), ...others } = values;
  if (!data)
    throw new Error("--data FOLDER, where train.txt, valid.txt and test.txt are, or --text8 FILE to cut them from");
  const [first, second, third, ...more] = counts("layers", layers);
  if (first === undefined || second === undefined || third === undefined || more.length > 0)
    throw new Error("--layers: expected those of three flows, like 2,2,2");
  const { threads, ...settings } = numbers(others);
  return { setup: { data, runs, layers: [first, second, third], ...settings }, threads, out, text8 };
}

/** Does the work, and writes the page and the figures that it makes. */
export function write(
  command: Text8Command,
  make: (work: Work) => Promise<{ page: string; figures: object }>,
): Promise<void> {
  return writeAny(command, async (work) => {
    await prepare(work.setup);
    if (command.text8 !== undefined) await cutText8(command.text8, work.setup.data);
    return make(work);
  });
}

/** What all runs need. */
export async function prepare({ runs }: Setup): Promise<void> {
  await mkdir(runs, { recursive: true });
  await writeFile(join(runs, "tokenizer.json"), characterTokenizer(` ${LETTERS}`));
}
