/**
 * The batches of a training run: which B windows of T tokens step n sees is a function of (seed, n) and the corpora alone,
 * so a run resumes at any step without a state of its own.
 *
 * A corpus of N tokens has floor(N / T) windows per pass. A pass starts at a random offset (the row of tokens is a ring) and
 * visits its windows in random order, so that in the long run every cut of the text occurs. With several corpora an epoch
 * holds round(weight * windows) visits of each, shuffled together; every corpus walks through its own passes meanwhile.
 */

import { NoemaError } from "../errors.js";
import { Rng, RngStream, type Seed } from "../rng.js";
import type { Corpus } from "./corpus.js";

export interface BatchSourceCorpus {
  corpus: Corpus;
  /** Visits per pass. Default 1. */
  weight?: number;
}

export interface BatchesOptions {
  seed: Seed;
  /** B: windows per step. */
  batch: number;
  /** T: tokens per window. */
  length: number;
}

interface Source {
  corpus: Corpus;
  windows: number;
  /** In one epoch. */
  visits: number;
}

/** What an epoch (row 0) or a pass of corpus row - 1 draws: an order of its members, and 32 bits for the offset. */
interface Shuffle {
  order: Uint32Array;
  offset: number;
}

export class Batches {
  readonly batchSize: number;
  readonly length: number;
  /** Windows that an epoch visits; steps need not divide it. */
  readonly epochWindows: number;
  readonly #rng: Rng;
  readonly #sources: readonly Source[];
  /** The shuffles in use. */
  readonly #shuffles = new Map<string, Shuffle>();
  readonly #shuffleLimit: number;

  constructor(sources: readonly BatchSourceCorpus[], { seed, batch, length }: BatchesOptions) {
    for (const [name, value] of Object.entries({ batch, length })) {
      if (Number.isSafeInteger(value) && value > 0) continue;
      throw new NoemaError("ERR_INVALID_ARGUMENT", `${name} ${value}: expected a positive integer`, { name, value });
    }
    if (sources.length === 0) throw new NoemaError("ERR_INVALID_ARGUMENT", "batches: expected at least one corpus");
    this.#rng = new Rng(seed);
    this.batchSize = batch;
    this.length = length;
    this.#sources = sources.map((source) => sourceOf(source, length));
    this.epochWindows = this.#sources.reduce((sum, { visits }) => sum + visits, 0);
    // A batch may straddle two epochs, and an epoch any number of a small corpus's passes: room for two epochs' shuffles.
    const passes = this.#sources.reduce((sum, { visits, windows }) => sum + Math.ceil(visits / windows) + 1, 0);
    this.#shuffleLimit = 2 * (passes + 1);
  }

  /** [B * T]: the windows of a step, counted from 0. */
  async batch(step: number): Promise<Int32Array<ArrayBuffer>> {
    const ids = new Int32Array(this.batchSize * this.length);
    await Promise.all(
      Array.from({ length: this.batchSize }, (_, row) => {
        const { corpus, start } = this.#window(step * this.batchSize + row);
        return corpus.read(start, ids.subarray(row * this.length, (row + 1) * this.length));
      }),
    );
    return ids;
  }

  /** Where the i-th window of the run lies. */
  #window(i: number): { corpus: Corpus; start: number } {
    const epoch = Math.floor(i / this.epochWindows);
    let place = this.#shuffle(0, epoch, this.epochWindows).order[i % this.epochWindows]!;
    const s = this.#sources.findIndex(({ visits }) => {
      if (place < visits) return true;
      place -= visits;
      return false;
    });
    const { corpus, windows, visits } = this.#sources[s]!;
    const visit = epoch * visits + place;
    const { order, offset } = this.#shuffle(s + 1, Math.floor(visit / windows), windows);
    const first = Math.floor((offset / 2 ** 32) * corpus.tokens);
    return { corpus, start: (first + order[visit % windows]! * this.length) % corpus.tokens };
  }

  #shuffle(row: number, epoch: number, size: number): Shuffle {
    const key = `${row} ${epoch}`;
    const known = this.#shuffles.get(key);
    if (known !== undefined) return known;
    const made = shuffle(this.#rng, { row, epoch, size });
    if (this.#shuffles.size >= this.#shuffleLimit) this.#shuffles.clear();
    this.#shuffles.set(key, made);
    return made;
  }
}

function sourceOf({ corpus, weight = 1 }: BatchSourceCorpus, length: number): Source {
  if (!(weight > 0 && weight < 1e6)) {
    throw new NoemaError("ERR_INVALID_ARGUMENT", `weight ${weight}: expected a positive number`, { weight });
  }
  const windows = Math.floor(corpus.tokens / length);
  if (windows === 0) {
    const message = `the corpus is too short: ${corpus.tokens} tokens, expected at least the ${length} of one window`;
    throw new NoemaError("ERR_BAD_CORPUS", message, { tokens: corpus.tokens, length });
  }
  return { corpus, windows, visits: Math.max(1, Math.round(weight * windows)) };
}

/** Fisher and Yates: lane i draws among the i + 1 places up to i; lane 0, which has no choice, gives the offset. */
function shuffle(rng: Rng, { row, epoch, size }: { row: number; epoch: number; size: number }): Shuffle {
  const draws = new Uint32Array(size);
  rng.fill(draws, { stream: RngStream.shuffle, step: epoch, row });
  const order = Uint32Array.from(draws, (_, i) => i);
  for (let i = size - 1; i > 0; i--) {
    const j = Math.floor((draws[i]! / 2 ** 32) * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return { order, offset: draws[0]! };
}
