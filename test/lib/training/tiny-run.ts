/** A run small enough to be trained dozens of times in a test: a byte vocabulary, two kilobytes of text, the fake engine. */

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openCheckpoint } from "../../../lib/checkpoint/folder.js";
import { createEngine, type EngineOptions, train as trainOn } from "../../../lib/index.js";
import type { Metric } from "../../../lib/training/metrics.js";
import { readMetrics } from "../../../lib/training/metrics.js";
import type { TrainOptions } from "../../../lib/training/options.js";
import { readBuffer, type SavedTensor, type StateBuffer } from "../../../lib/training/state.js";
import { type TrainingEvent, train } from "../../../lib/training/train.js";
import { FakeEngine } from "./fake.js";
import { scratch } from "./scratch.js";

/** Space and line end as byte-level vocabularies write them, and the printable rest of ASCII. */
const CHARACTERS = ["\u0120", "\u010a", ...Array.from({ length: 94 }, (_, i) => String.fromCharCode(0x21 + i))];
const SPECIAL = ["<|endoftext|>", "<|mask|>", "<|pad|>"];

export function byteTokenizer(): string {
  const vocab = Object.fromEntries([...SPECIAL, ...CHARACTERS].map((token, id) => [token, id]));
  const added = SPECIAL.map((content, id) => ({ id, content, special: true }));
  return JSON.stringify({
    version: "1.0",
    added_tokens: added,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab, merges: [] },
  });
}

export interface Fixture {
  folder: string;
  options: TrainOptions;
}

export async function fixture(options: Partial<TrainOptions> = {}): Promise<Fixture> {
  const folder = await scratch();
  const path = (name: string) => join(folder, name);
  await writeFile(path("tokenizer.json"), byteTokenizer());
  await writeFile(path("a.txt"), "abcabcabcabd\n<|endoftext|>\n".repeat(60));
  await writeFile(path("b.txt"), "xyzzy ".repeat(100));
  await writeFile(path("valid.txt"), "abcabcabcabc".repeat(10));
  return {
    folder,
    options: {
      ...{
        run: path("run"),
        corpus: [path("a.txt"), { path: path("b.txt"), weight: 0.5 }],
        heldOut: [path("valid.txt")],
      },
      ...{ tokenizer: path("tokenizer.json"), cache: path("cache"), shape: { hidden: 8, heads: 2, layers: 1 } },
      ...{ steps: 10, batch: 3, microBatch: 2, length: 8, warmup: 2, rate: 0.02, ema: 0.9, evaluateSequences: 4 },
      ...{ evaluateEvery: 2, evaluateDraws: 1, saveEvery: 3 },
      ...options,
    },
  };
}

export async function collect(options: TrainOptions, engine = new FakeEngine()): Promise<TrainingEvent[]> {
  const events: TrainingEvent[] = [];
  for await (const event of train({ native: engine }, options)) events.push(event);
  return events;
}

/** Trains to the end on a real engine. */
export async function trained(options: TrainOptions, on: EngineOptions = {}): Promise<TrainingEvent[]> {
  await using engine = await createEngine({ threads: 1, ...on });
  const events: TrainingEvent[] = [];
  for await (const event of trainOn(engine, options)) events.push(event);
  return events;
}

/** `outcome` of a run whose checkpoint says which tensors there are. */
export async function outcomeOf(run: string) {
  const names = [...(await openCheckpoint(run)).tensors].map(([name, { shape }]) => ({ name, shape }));
  return outcome(run, names);
}

/** Everything of a run that must be the same whether it was interrupted or not. */
export async function outcome(run: string, names: readonly { name: string; shape: readonly number[] }[]) {
  const tensors: Partial<Record<StateBuffer, SavedTensor[]>> = {};
  for (const buffer of ["parameter", "m", "v", "average"] as const) {
    const list: SavedTensor[] = [];
    for await (const tensor of readBuffer(run, buffer, names)) list.push(tensor);
    tensors[buffer] = list;
  }
  const metrics = (await readMetrics(join(run, "metrics.jsonl"))).map(withoutTimes);
  return { tensors, metrics };
}

function withoutTimes(metric: Metric): object {
  const {
    tokensPerSecond: _,
    seconds: __,
    ...rest
  } = metric as Metric & { tokensPerSecond?: number; seconds?: number };
  return rest;
}
