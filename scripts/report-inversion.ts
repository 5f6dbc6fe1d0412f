// How a flow is inverted: whether held-out texts come back token by token from their own noise, and what every way of inverting every
// flow costs.
//
//   npx tsx scripts/report-inversion.ts models/tales-flow HELD_OUT.txt --sequences 10000 --out docs/inversion
//
// Writes <out>.md and <out>.json. Sequences are windows of the model's length, spread over the text; they overlap where they are many. May
// be stopped at any time (Ctrl-C): what was found lies in --state, and the same command goes on.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { startProgress } from "../lib/cli/progress.js";
import { windowsOfFiles } from "../lib/evaluation/windows.js";
import { writeAll, writeAtomically } from "../lib/files.js";
import type { FlowModel } from "../lib/flow/model.js";
import { describePlan } from "../lib/flow/plan.js";
import { createEngine, type PlanMeasure } from "../lib/index.js";
import { latentNoise } from "../lib/normals.js";

export interface Returned {
  sequences: number;
  tokens: number;
  /** Tokens that were not what they had been, and the sequences that have one. */
  lostTokens: number;
  lostSequences: number;
  /** Of those, tokens that the codebook decodes otherwise before any flow: the encoder's noise took them into another's place. */
  misread: number;
  /** Sequences of which some scalar of the data's latents came back with other bits. */
  changed: number;
  secondsPerSequence: number;
}

interface Journey {
  model: FlowModel;
  /** Held-out text, from end to end. */
  text: Int32Array;
  sequences: number;
  batch: number;
  /** Is told what is known so far, after every native call. */
  onDone: (found: Returned) => Promise<void>;
}

/** Sequences `first` .. `first + rows` of so many, as far apart in the text as it allows. */
function cut(
  text: Int32Array,
  { length, sequences }: { length: number; sequences: number },
  first: number,
  rows: number,
) {
  const ids = new Int32Array(rows * length);
  for (let b = 0; b < rows; b++) {
    const start = Math.floor(((first + b) * (text.length - length)) / Math.max(1, sequences - 1));
    ids.set(text.subarray(start, start + length), b * length);
  }
  return ids;
}

/** `batch` sequences at a time: each through all flows to noise, and back. Goes on from what was found before. */
async function comeAndGo({ model, text, sequences, batch, onDone }: Journey, before?: Returned): Promise<Returned> {
  const { native, config } = model;
  const length = config.maxPositions * config.patchSize;
  const found: Returned = before ?? {
    ...{ sequences: 0, tokens: 0, lostTokens: 0, lostSequences: 0, misread: 0, changed: 0, secondsPerSequence: 0 },
  };
  while (found.sequences < sequences) {
    const started = performance.now();
    const first = found.sequences;
    const rows = Math.min(batch, sequences - first);
    const ids = cut(text, { length, sequences }, first, rows);
    const request = { ids, batch: rows, length };
    const states = await native.trace({ ...request, noise: latentNoise(first, ids.length * config.latentSize) });
    const back = await native.invert({ ...request, latents: states.at(-1)!, level: config.flows.length });
    const direct = await native.read({ level: 0, latents: states[0]! });
    for (let b = 0; b < rows; b++) {
      const own = (at: number) => at >= b * length && at < (b + 1) * length;
      const lost = ids.reduce((sum, id, at) => sum + (own(at) && back.tokens[at] !== id ? 1 : 0), 0);
      const wrong = (at: number) => back.tokens[at] !== ids[at] && direct.tokens[at] !== ids[at];
      const misread = ids.reduce((sum, _, at) => sum + (own(at) && wrong(at) ? 1 : 0), 0);
      const values = length * config.latentSize;
      const changed = back.state
        .subarray(b * values, (b + 1) * values)
        .some((x, i) => x !== states[0]![b * values + i]);
      found.lostTokens += lost;
      found.misread += misread;
      found.lostSequences += lost > 0 ? 1 : 0;
      found.changed += changed ? 1 : 0;
    }
    const seconds = (performance.now() - started) / 1000;
    found.secondsPerSequence = (found.secondsPerSequence * first + seconds) / (first + rows);
    found.sequences += rows;
    found.tokens += ids.length;
    await onDone(found);
  }
  return found;
}

/** A file's tokens, as many as make whole windows. */
async function tokensOf({ config, tokenizer }: FlowModel, file: string): Promise<Int32Array> {
  const length = config.maxPositions * config.patchSize;
  const ids: number[] = [];
  for await (const window of windowsOfFiles([file], tokenizer!, { length, eosId: config.eosTokenId }))
    if (window.ids.length === length) ids.push(...window.ids);
  if (ids.length === 0) throw new Error(`${file}: no window of ${length} tokens`);
  return Int32Array.from(ids);
}

/** What an interrupted run of the same model, text and numbers has found. */
async function foundBefore(path: string, run: string): Promise<Returned | undefined> {
  if (!existsSync(path)) return undefined;
  const state = JSON.parse(await readFile(path, "utf8")) as { run: string; found: Returned };
  if (state.run === run) return state.found;
  throw new Error(`${path} is of another model, text or number of sequences: give another --state`);
}

export function planTable(measures: readonly PlanMeasure[]): string {
  const lines = measures.map(({ flow, plan, milliseconds, sweeps, residual = 0, differing = 0 }) => {
    const accuracy = `${residual.toExponential(1)} | ${differing}`;
    return `| ${flow + 1} | ${describePlan(plan)} | ${sweeps.toFixed(1)} | ${milliseconds.toFixed(1)} | ${accuracy} |`;
  });
  const head = "| flow | way | sweeps per text | ms per text | max abs(u - f(h)) | other tokens |";
  return [head, "|---|---|---|---|---|---|", ...lines].join("\n");
}

export function returnedText(returned: Returned): string {
  const share = (100 * (1 - returned.lostTokens / returned.tokens)).toFixed(4);
  return `${returned.sequences} sequences, ${returned.tokens} tokens: ${returned.lostTokens} tokens in ${returned.lostSequences} sequences came back as another
(${share} % came back as they were), ${returned.misread} of them because the encoder's own noise had put them in another token's place before any flow. The
data's latents came back to the bit in ${returned.sequences - returned.changed} of ${returned.sequences} sequences. ${returned.secondsPerSequence.toFixed(3)} s per sequence, there and back.`;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      sequences: { type: "string", default: "10000" },
      batch: { type: "string", default: "16" },
      threads: { type: "string", default: "0" },
      out: { type: "string" },
      state: { type: "string" },
    },
  });
  const [folder, file] = positionals;
  if (!folder || !file || !values.out) throw new Error("usage: report-inversion.ts MODEL TEXT_FILE --out PATH");
  await using engine = await createEngine({ threads: Number(values.threads) });
  await using model = await engine.load(folder, { family: "flow" });
  const measures = await model.measureInversions();
  const sequences = Number(values.sequences);
  const format = "there and back {bar} {value}/{total} sequences, {eta_formatted} left";
  const progress = startProgress(
    { out: process.stdout, error: process.stderr },
    { format, total: sequences, quiet: false },
  );
  const text = await tokensOf(model, file);
  const batch = Number(values.batch);
  const hash = createHash("sha256").update(await readFile(join(folder, "model.safetensors")));
  const run = hash.update(text).update(`${sequences} ${batch}`).digest("hex");
  const path = values.state ?? "runs/inversion.json";
  const keep = (found: Returned) =>
    writeAtomically(path, (handle) => writeAll(handle, Buffer.from(JSON.stringify({ run, found }))));
  mkdirSync(dirname(path), { recursive: true });
  const onDone = async (found: Returned) => {
    progress.update(found.sequences);
    await keep(found);
  };
  const returned = await comeAndGo({ model, text, sequences, batch, onDone }, await foundBefore(path, run));
  progress.stop();
  const page = `# Inverting ${folder}

Made by \`scripts/report-inversion.ts\` on ${engine.device.threads} threads, weights in f32.

## There and back

Windows of held-out text, spread over it evenly, encoded with fresh noise, taken to base noise and inverted from there.

${returnedText(returned)}

## Every flow, every way

One text of ${model.config.maxPositions} positions from fresh noise, the better of two runs; \`inversion: "auto"\` takes the fastest way of every flow.
What was found is run forward again, which is part of the time of sweeps: how far that comes from what was to be inverted, and how many
tokens are not those of the sequential inverse.

${planTable(measures)}
`;
  mkdirSync(dirname(values.out), { recursive: true });
  writeFileSync(`${values.out}.md`, page);
  writeFileSync(`${values.out}.json`, `${JSON.stringify({ model: folder, returned, measures }, null, 2)}\n`);
}

if (process.argv[1]?.endsWith("report-inversion.ts")) await main();
