// Trains a byte-level BPE tokenizer and writes it as a Hugging Face tokenizer.json.
//
//   npx tsx scripts/train-tokenizer.ts --size 4096 --out models/tales-masked/tokenizer.json TEXT_FILE...
//
// Ids: the special tokens, the 256 bytes in byte order, then merges in the order they were learned. Deterministic: the most
// frequent pair is merged first, ties go to the lower left id, then the lower right id.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { wordsOf } from "../lib/tokenizer/words.js";
import { inspectTextFile, readPieces } from "../lib/training/text.js";

export const SPECIAL_TOKENS = ["<|endoftext|>", "<|mask|>", "<|pad|>"];

/**
 * GPT-2's printable stand-ins for bytes, in which a byte-level vocabulary is written. Printable Latin-1 bytes stand for
 * themselves; the other 68 take U+0100 and up, in byte order.
 */
function byteCharacters(): string[] {
  let next = 0x100;
  const isPrintable = (byte: number) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
}

interface Word {
  ids: number[];
  count: number;
}

/** Pair (a, b) as one number: ids stay below 2^20, so it is exact and orders like (a, b). */
const PAIR_BASE = 1 << 20;

/** A binary heap of [count, pair], largest count first, then the lowest pair. Outdated entries are dropped when met. */
class PairHeap {
  readonly #entries: [number, number][] = [];

  push(count: number, pair: number): void {
    const entries = this.#entries;
    const entry: [number, number] = [count, pair];
    let i = entries.push(entry) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!before(entry, entries[parent] as [number, number])) break;
      entries[i] = entries[parent] as [number, number];
      i = parent;
    }
    entries[i] = entry;
  }

  pop(): [number, number] | undefined {
    const entries = this.#entries;
    const top = entries[0];
    const last = entries.pop();
    if (top === undefined || last === undefined || entries.length === 0) return top;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= entries.length) break;
      if (child + 1 < entries.length && before(at(entries, child + 1), at(entries, child))) child++;
      if (!before(at(entries, child), last)) break;
      entries[i] = at(entries, child);
      i = child;
    }
    entries[i] = last;
    return top;
  }
}

function at(entries: [number, number][], i: number): [number, number] {
  return entries[i] as [number, number];
}

function before(a: [number, number], b: [number, number]): boolean {
  return a[0] !== b[0] ? a[0] > b[0] : a[1] < b[1];
}

/** Pair counts over all words, kept current while pairs are merged. */
class PairTable {
  readonly #counts = new Map<number, number>();
  readonly #where = new Map<number, Set<Word>>();
  readonly #heap = new PairHeap();

  constructor(words: Word[]) {
    for (const word of words) this.#addPairs(word, 1);
    for (const [pair, count] of this.#counts) this.#heap.push(count, pair);
  }

  /** The most frequent pair that occurs at all. */
  best(): number | undefined {
    for (let top = this.#heap.pop(); top !== undefined; top = this.#heap.pop()) {
      const count = this.#counts.get(top[1]) ?? 0;
      if (count === top[0] && count > 0) return top[1];
    }
    return undefined;
  }

  merge(pair: number, id: number): void {
    const touched = new Set<number>();
    for (const word of this.#where.get(pair) ?? []) {
      this.#addPairs(word, -1, touched);
      word.ids = mergeIn(word.ids, pair, id);
      this.#addPairs(word, 1, touched);
    }
    this.#where.delete(pair);
    for (const changed of touched) {
      const count = this.#counts.get(changed) ?? 0;
      if (count > 0) this.#heap.push(count, changed);
    }
  }

  #addPairs(word: Word, sign: number, touched?: Set<number>): void {
    for (let i = 0; i + 1 < word.ids.length; i++) {
      const pair = (word.ids[i] as number) * PAIR_BASE + (word.ids[i + 1] as number);
      this.#counts.set(pair, (this.#counts.get(pair) ?? 0) + sign * word.count);
      touched?.add(pair);
      if (sign > 0) this.#wordsOf(pair).add(word);
    }
  }

  #wordsOf(pair: number): Set<Word> {
    let words = this.#where.get(pair);
    if (words === undefined) {
      words = new Set();
      this.#where.set(pair, words);
    }
    return words;
  }
}

function mergeIn(ids: number[], pair: number, id: number): number[] {
  const left = Math.floor(pair / PAIR_BASE);
  const right = pair % PAIR_BASE;
  const merged: number[] = [];
  for (let i = 0; i < ids.length; i++) {
    const here = ids[i] === left && ids[i + 1] === right;
    merged.push(here ? id : (ids[i] as number));
    if (here) i++;
  }
  return merged;
}

/** Adds the words of a text to the counts, cut as the tokenizer will cut them. */
export function countWords(text: string, counts: Map<string, number>): void {
  for (const word of wordsOf(text)) counts.set(word, (counts.get(word) ?? 0) + 1);
}

/** From counts of words: tokens in id order and merges in rank order, for exactly `size` entries (fewer when the text has no more pairs). */
export function trainBytePairs(counts: ReadonlyMap<string, number>, size: number) {
  const tokens = [...SPECIAL_TOKENS, ...byteCharacters()];
  const idOf = new Map(tokens.map((token, id) => [token, id]));
  const byteIds = (word: string) => Array.from(Buffer.from(word), (byte) => SPECIAL_TOKENS.length + byte);
  const words = [...counts].map(([word, count]) => ({ ids: byteIds(word), count }));
  const table = new PairTable(words);
  const merges: [string, string][] = [];
  while (tokens.length < size) {
    const pair = table.best();
    if (pair === undefined) break;
    const left = tokens[Math.floor(pair / PAIR_BASE)] as string;
    const right = tokens[pair % PAIR_BASE] as string;
    // Two merge paths can spell one token: both merges are kept, the id is one.
    const id = idOf.get(left + right) ?? tokens.push(left + right) - 1;
    idOf.set(left + right, id);
    table.merge(pair, id);
    merges.push([left, right]);
  }
  return { tokens, merges };
}

/** tokenizer.json as Hugging Face's library writes it. */
export function tokenizerJson(tokens: string[], merges: [string, string][]) {
  const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: SPECIAL_TOKENS.map((content, id) => ({ id, content, ...plain })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: merges.map((pair) => pair.join(" ")),
    },
  };
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    options: { size: { type: "string", default: "4096" }, out: { type: "string", default: "tokenizer.json" } },
    allowPositionals: true,
  });
  const size = Number(values.size);
  if (!Number.isInteger(size) || size < SPECIAL_TOKENS.length + 256 || size >= PAIR_BASE) {
    throw new Error(`--size ${values.size}: expected an integer of ${SPECIAL_TOKENS.length + 256} or more`);
  }
  if (positionals.length === 0) throw new Error("name at least one text file");
  const counts = new Map<string, number>();
  for (const path of positionals) {
    await inspectTextFile(path);
    for await (const piece of readPieces(path)) countWords(piece.text, counts);
  }
  const { tokens, merges } = trainBytePairs(counts, size);
  if (tokens.length < size) throw new Error(`the text yields only ${tokens.length} entries of the ${size} asked for`);
  mkdirSync(dirname(values.out), { recursive: true });
  writeFileSync(values.out, `${JSON.stringify(tokenizerJson(tokens, merges), null, 1)}\n`);
  console.log(`${values.out}: ${tokens.length} entries from ${counts.size} distinct words`);
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) await main();
