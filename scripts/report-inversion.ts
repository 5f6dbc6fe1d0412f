// How a flow is inverted: whether held-out texts come back token by token from their own noise, and what every way of inverting every
// flow costs.
//
//   npx tsx scripts/report-inversion.ts models/tales-flow HELD_OUT.txt --sequences 10000 --out docs/inversion
//
// Writes <out>.md and <out>.json. Sequences are windows of the model's length; when the text has fewer, they come again with other noise.

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { startProgress } from "../lib/cli/progress.js";
import { windowsOfFiles } from "../lib/evaluation/windows.js";
import type { FlowModel } from "../lib/flow/model.js";
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

/** `batch` sequences at a time: each through all flows to noise, and back. */
async function comeAndGo(
  model: FlowModel,
  file: string,
  { sequences, batch, onDone }: { sequences: number; batch: number; onDone: (done: number) => void },
): Promise<Returned> {
  const { native, config, tokenizer } = model;
  const length = config.maxPositions * config.patchSize;
  const windows: Int32Array[] = [];
  const cut = { length, eosId: config.eosTokenId, limit: sequences };
  for await (const { ids } of windowsOfFiles([file], tokenizer!, cut)) if (ids.length === length) windows.push(ids);
  if (windows.length === 0) throw new Error(`${file}: no window of ${length} tokens`);
  const found: Returned = {
    ...{ sequences: 0, tokens: 0, lostTokens: 0, lostSequences: 0, misread: 0, changed: 0, secondsPerSequence: 0 },
  };
  const started = performance.now();
  for (let first = 0; first < sequences; first += batch) {
    const rows = Math.min(batch, sequences - first);
    const ids = new Int32Array(rows * length);
    for (let b = 0; b < rows; b++) ids.set(windows[(first + b) % windows.length]!, b * length);
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
    found.sequences += rows;
    found.tokens += ids.length;
    onDone(found.sequences);
  }
  found.secondsPerSequence = (performance.now() - started) / 1000 / sequences;
  return found;
}

export function planTable(measures: readonly PlanMeasure[]): string {
  const lines = measures.map(({ flow, plan, milliseconds, sweeps }) => {
    const way = plan.method === "sequential" ? "sequential" : `jacobi, ${plan.modules} modules`;
    return `| ${flow + 1} | ${way} | ${sweeps.toFixed(1)} | ${milliseconds.toFixed(1)} |`;
  });
  return ["| flow | way | sweeps per text | ms per text |", "|---|---|---|---|", ...lines].join("\n");
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
  const returned = await comeAndGo(model, file, {
    ...{ sequences, batch: Number(values.batch) },
    onDone: (done) => progress.update(done),
  });
  progress.stop();
  const text = `# Inverting ${folder}

Made by \`scripts/report-inversion.ts\` on ${engine.device.threads} threads, weights in f32.

## There and back

Held-out text, encoded with fresh noise, taken to base noise and inverted from there.

${returnedText(returned)}

## Every flow, every way

One text of ${model.config.maxPositions} positions from fresh noise, the better of two runs; \`inversion: "auto"\` takes the fastest way of every flow.

${planTable(measures)}
`;
  mkdirSync(dirname(values.out), { recursive: true });
  writeFileSync(`${values.out}.md`, text);
  writeFileSync(`${values.out}.json`, `${JSON.stringify({ model: folder, returned, measures }, null, 2)}\n`);
}

if (process.argv[1]?.endsWith("report-inversion.ts")) await main();
