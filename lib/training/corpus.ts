/**
 * Text files as one long row of tokens on disk: documents one after the other, each closed by the end-of-text token. It is
 * made once per (files, tokenizer, separator) and found again by their hashes, in a cache folder:
 *
 *     <cache>/<key>/index.json      what it was made from, counts, and the hash of every shard
 *     <cache>/<key>/00000.bin ...   ids as 16-bit integers where the vocabulary allows, else 32-bit; little-endian
 */

import { createHash, type Hash, randomUUID } from "node:crypto";
import { type FileHandle, mkdir, open, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { NoemaError } from "../errors.js";
import { ioError, openRegular, readExactly, readLimited, syncFolder, writeAll, writeDurably } from "../files.js";
import { parseObject } from "../json.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import {
  DEFAULT_SEPARATOR,
  inspectTextFile,
  isJsonLines,
  readPieces,
  type TextFileSummary,
  type TextOptions,
} from "./text.js";

export interface CorpusProgress {
  /** The file being read. */
  path: string;
  /** Of the text of all files. */
  bytes: number;
  totalBytes: number;
  tokens: number;
}

export interface CorpusOptions extends TextOptions {
  tokenizer: Tokenizer;
  /** Closes every document. */
  eosId: number;
  cache: string;
  /** Tokens per shard, the last excepted. Default 2^26: 128 MB of 16-bit ids. */
  shardTokens?: number;
  onProgress?: (progress: CorpusProgress) => void;
  signal?: AbortSignal | undefined;
}

interface Shard {
  file: string;
  tokens: number;
  sha256: string;
}

interface Index {
  format: 1;
  tokenizer: string;
  separator: string;
  eosId: number;
  files: { name: string; bytes: number; sha256: string }[];
  dtype: "u16" | "u32";
  documents: number;
  tokens: number;
  shardTokens: number;
  shards: Shard[];
}

const INDEX_LIMIT = 1 << 24;
/** Tokens collected before they are written. */
const WRITE_TOKENS = 1 << 18;
const INDEX_FILE = "index.json";

/** An open row of tokens. */
export class Corpus implements AsyncDisposable {
  /** Hash of everything the tokens depend on. */
  readonly key: string;
  readonly tokens: number;
  readonly documents: number;
  /** Of the files. */
  readonly bytes: number;
  readonly #index: Index;
  readonly #shards: readonly { path: string; handle: FileHandle }[];

  private constructor(key: string, index: Index, shards: readonly { path: string; handle: FileHandle }[]) {
    this.key = key;
    this.tokens = index.tokens;
    this.documents = index.documents;
    this.bytes = index.files.reduce((sum, file) => sum + file.bytes, 0);
    this.#index = index;
    this.#shards = shards;
  }

  /** @internal */
  static async openShards(key: string, folder: string, index: Index): Promise<Corpus> {
    const shards: { path: string; handle: FileHandle }[] = [];
    try {
      for (const { file } of index.shards) {
        const path = join(folder, file);
        shards.push({ path, handle: await openRegular(path, "ERR_IO") });
      }
    } catch (error) {
      for (const { handle } of shards) await handle.close();
      throw ioError("reading", folder, error);
    }
    return new Corpus(key, index, shards);
  }

  /** Writes `out.length` tokens from a start on; after the last token comes the first again. */
  async read(start: number, out: Int32Array): Promise<void> {
    const { shardTokens } = this.#index;
    for (let done = 0; done < out.length; ) {
      const at = (start + done) % this.tokens;
      const shard = Math.floor(at / shardTokens);
      const end = Math.min((shard + 1) * shardTokens, this.tokens);
      const count = Math.min(out.length - done, end - at);
      out.set(await this.#readShard(shard, at - shard * shardTokens, count), done);
      done += count;
    }
  }

  async #readShard(shard: number, start: number, count: number): Promise<Uint16Array | Uint32Array> {
    const { path, handle } = this.#shards[shard]!;
    const ids = this.#index.dtype === "u16" ? new Uint16Array(count) : new Uint32Array(count);
    try {
      await readExactly(handle, path, new Uint8Array(ids.buffer), start * ids.BYTES_PER_ELEMENT);
    } catch (error) {
      throw ioError("reading", path, error);
    }
    return ids;
  }

  async close(): Promise<void> {
    for (const { handle } of this.#shards) await handle.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Opens the tokens of these files, from the cache if they are there and whole, else by tokenising. */
export async function openCorpus(files: readonly string[], options: CorpusOptions): Promise<Corpus> {
  const { tokenizer, eosId, cache, signal } = options;
  if (!Number.isInteger(eosId) || eosId < 0 || eosId >= tokenizer.vocabSize) {
    throw new NoemaError(
      "ERR_INVALID_ARGUMENT",
      `eosId ${eosId}: expected an id of the tokenizer, 0 .. ${tokenizer.vocabSize - 1}`,
    );
  }
  const summaries: TextFileSummary[] = [];
  for (const path of files) {
    signal?.throwIfAborted();
    summaries.push(await inspectTextFile(path));
  }
  const key = keyOf(summaries.map(named), options);
  const folder = join(cache, key.slice(0, 32));
  const index = (await readCached(folder, key)) ?? (await makeCached(folder, key, summaries, options));
  return Corpus.openShards(key, folder, index);
}

/** The same bytes are other documents where the name says JSON lines. */
function keyOf(files: Index["files"], { tokenizer, separator, eosId }: KeyParts): string {
  const contents = files.map(({ name, sha256 }) => (isJsonLines(name) ? `jsonl ${sha256}` : sha256));
  const parts = [1, tokenizer.sha256, separator ?? DEFAULT_SEPARATOR, eosId, contents];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}

function named({ path, ...file }: TextFileSummary): Index["files"][number] {
  return { name: basename(path), ...file };
}

interface KeyParts extends TextOptions {
  tokenizer: { sha256: string };
  eosId: number;
}

/** The index, if the folder holds what the key asks for and every shard is as it was written. */
async function readCached(folder: string, key: string): Promise<Index | undefined> {
  try {
    const path = join(folder, INDEX_FILE);
    const index = parseObject(await readLimited(path, INDEX_LIMIT, "ERR_IO"), path, "ERR_IO") as unknown as Index;
    if (keyOf(index.files, { ...index, tokenizer: { sha256: index.tokenizer } }) !== key) return undefined;
    for (const shard of index.shards) {
      if (!(await isWhole(join(folder, shard.file), shard, index.dtype))) return undefined;
    }
    const total = index.shards.reduce((sum, { tokens }) => sum + tokens, 0);
    return total > 0 && total === index.tokens ? index : undefined;
  } catch {
    // Whatever is wrong with a cache, the text is still there to make it anew from.
    return undefined;
  }
}

async function isWhole(path: string, shard: Shard, dtype: Index["dtype"]): Promise<boolean> {
  await using handle = await openRegular(path, "ERR_IO");
  if ((await handle.stat()).size !== shard.tokens * (dtype === "u16" ? 2 : 4)) return false;
  const hash = createHash("sha256");
  for await (const chunk of handle.createReadStream({ highWaterMark: 1 << 20 })) hash.update(chunk);
  return hash.digest("hex") === shard.sha256;
}

/** Tokenises into a staging folder and gives it its name when it is complete. */
async function makeCached(
  folder: string,
  key: string,
  files: readonly TextFileSummary[],
  options: CorpusOptions,
): Promise<Index> {
  const staging = `${folder}.${randomUUID()}.tmp`;
  try {
    await mkdir(staging, { recursive: true });
    const index = await tokenise(staging, files, options);
    const text = Buffer.from(`${JSON.stringify(index, null, 2)}\n`);
    await writeDurably(join(staging, INDEX_FILE), (handle) => writeAll(handle, text));
    // Another process may have been faster: what it made is the same. What is not whole makes room.
    const made = await readCached(folder, key);
    if (made !== undefined) return made;
    await rm(folder, { recursive: true, force: true });
    await rename(staging, folder);
    await syncFolder(options.cache);
    return index;
  } catch (error) {
    throw ioError("writing the token cache", folder, error);
  } finally {
    await rm(staging, { recursive: true, force: true }).catch(() => undefined);
  }
}

async function tokenise(folder: string, files: readonly TextFileSummary[], options: CorpusOptions): Promise<Index> {
  const { tokenizer, separator = DEFAULT_SEPARATOR, eosId, shardTokens = 1 << 26, onProgress, signal } = options;
  const dtype = tokenizer.vocabSize <= 1 << 16 ? "u16" : "u32";
  await using writer = new ShardWriter(folder, dtype, shardTokens);
  const totalBytes = files.reduce((sum, file) => sum + file.bytes, 0);
  let bytes = 0;
  let documents = 0;
  for (const { path } of files) {
    for await (const { text, last } of readPieces(path, { separator })) {
      signal?.throwIfAborted();
      await writer.append(tokenizer.encode(text, { allowDeletions: true }));
      if (last) await writer.append([eosId]);
      documents += last ? 1 : 0;
      bytes += Buffer.byteLength(text);
      onProgress?.({ path, bytes, totalBytes, tokens: writer.tokens });
      await setImmediate(); // requests of the process are served between pieces
    }
  }
  if (documents === 0) {
    const paths = files.map(({ path }) => path);
    throw new NoemaError("ERR_BAD_CORPUS", `${paths.join(", ") || "no files"}: there is no text`, { paths });
  }
  const shards = await writer.finish();
  const made = { files: files.map(named), dtype, documents, tokens: writer.tokens, shardTokens, shards } as const;
  return { format: 1, tokenizer: tokenizer.sha256, separator, eosId, ...made };
}

/** Writes ids into shards of equal length. */
class ShardWriter implements AsyncDisposable {
  tokens = 0;
  readonly #folder: string;
  readonly #shardTokens: number;
  readonly #buffer: Uint16Array | Uint32Array;
  #buffered = 0;
  readonly #shards: Shard[] = [];
  #current: { handle: FileHandle; hash: Hash; file: string; tokens: number } | undefined;

  constructor(folder: string, dtype: Index["dtype"], shardTokens: number) {
    this.#folder = folder;
    this.#shardTokens = shardTokens;
    this.#buffer = dtype === "u16" ? new Uint16Array(WRITE_TOKENS) : new Uint32Array(WRITE_TOKENS);
  }

  async append(ids: ArrayLike<number>): Promise<void> {
    for (let i = 0; i < ids.length; i++) {
      if (this.#buffered === WRITE_TOKENS) await this.#flush();
      this.#buffer[this.#buffered++] = ids[i]!;
    }
    this.tokens += ids.length;
  }

  async finish(): Promise<Shard[]> {
    await this.#flush();
    await this.#closeShard();
    return this.#shards;
  }

  /** After a failure: what is open is closed, the files are left to be removed with their folder. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#current?.handle.close();
  }

  async #flush(): Promise<void> {
    for (let done = 0; done < this.#buffered; ) {
      this.#current ??= await this.#openShard();
      const count = Math.min(this.#buffered - done, this.#shardTokens - this.#current.tokens);
      const ids = this.#buffer.subarray(done, done + count);
      const bytes = new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength);
      this.#current.hash.update(bytes);
      await writeAll(this.#current.handle, bytes);
      this.#current.tokens += count;
      done += count;
      if (this.#current.tokens === this.#shardTokens) await this.#closeShard();
    }
    this.#buffered = 0;
  }

  async #openShard() {
    const file = `${String(this.#shards.length).padStart(5, "0")}.bin`;
    return { handle: await open(join(this.#folder, file), "wx"), hash: createHash("sha256"), file, tokens: 0 };
  }

  async #closeShard(): Promise<void> {
    if (this.#current === undefined) return;
    const { handle, hash, file, tokens } = this.#current;
    await handle.sync();
    await handle.close();
    this.#current = undefined;
    this.#shards.push({ file, tokens, sha256: hash.digest("hex") });
  }
}
