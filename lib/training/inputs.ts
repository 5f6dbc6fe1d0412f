/** The text of a run: its tokenizer, the batches of every step, the held-out windows. */

import { createHash } from "node:crypto";
import { join } from "node:path";
import type { ModelConfig } from "../checkpoint/config.js";
import { TOKENIZER_FILE } from "../checkpoint/folder.js";
import { NoemaError } from "../errors.js";
import type { Window } from "../evaluation/bound.js";
import { windowsOfFiles } from "../evaluation/windows.js";
import { Tokenizer } from "../tokenizer/tokenizer.js";
import { Batches } from "./batches.js";
import { type Corpus, openCorpus } from "./corpus.js";
import type { TrainOptions, TrainSettings } from "./options.js";
import type { BatchSource } from "./session.js";

export interface Inputs {
  data: BatchSource;
  heldOut: Window[];
  /** SHA-256 of the files' texts, how they are cut into tokens, and their weights. */
  hash: string;
  tokens: number;
}

/** The tokenizer named, or the one of the checkpoint that the run starts from. */
export function openTokenizer({ tokenizer, init }: TrainOptions): Promise<Tokenizer> {
  return Tokenizer.load(tokenizer ?? join(init ?? "", TOKENIZER_FILE));
}

export async function openInputs(
  options: TrainOptions,
  settings: TrainSettings,
  { tokenizer, config }: { tokenizer: Tokenizer; config: ModelConfig },
): Promise<Inputs> {
  const { eosTokenId: eosId } = config;
  if (eosId === undefined) {
    const message = `${tokenizer.path}: no end-of-text token, which closes every document`;
    throw new NoemaError("ERR_BAD_TOKENIZER", message);
  }
  const heldOut = await readHeldOut(options.heldOut ?? [], settings, { tokenizer, eosId });
  const sources: { corpus: Corpus; weight: number }[] = [];
  const close = async () => {
    for (const { corpus } of sources) await corpus.close();
  };
  try {
    const shared = { tokenizer, eosId, cache: options.cache ?? join(options.run, "cache"), signal: options.signal };
    for (const file of options.corpus) {
      const { path, weight = 1 } = typeof file === "string" ? { path: file } : file;
      sources.push({ corpus: await openCorpus([path], shared), weight });
    }
    const batches = new Batches(sources, settings);
    // Training steps count from 1, batches from 0.
    const data = { batch: (step: number) => batches.batch(step - 1), close };
    const tokens = sources.reduce((sum, { corpus }) => sum + corpus.tokens, 0);
    return { data, heldOut, hash: hashOf(sources), tokens };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The first windows of the files, as `noema evaluate` cuts them. */
async function readHeldOut(
  files: readonly string[],
  { length, evaluateSequences: limit }: TrainSettings,
  { tokenizer, eosId }: { tokenizer: Tokenizer; eosId: number },
): Promise<Window[]> {
  const windows: Window[] = [];
  if (files.length === 0) return windows;
  for await (const window of windowsOfFiles(files, tokenizer, { length, eosId, limit })) windows.push(window);
  return windows;
}

function hashOf(sources: readonly { corpus: Corpus; weight: number }[]): string {
  const parts = sources.map(({ corpus, weight }) => [corpus.key, weight]);
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}
