/**
 * Text to token ids and back, by a folder's tokenizer.json (Hugging Face's format, read by @huggingface/tokenizers).
 *
 * Special tokens (`<|mask|>`, `<|endoftext|>`, ...) written out in a text are plain characters here unless the caller says
 * otherwise: what a user types can neither end a document nor punch holes into it. No post-processor runs: which tokens
 * frame a text is the model's business.
 */

import { createHash } from "node:crypto";
import { Tokenizer as Implementation } from "@huggingface/tokenizers";
import { NoemaError } from "../errors.js";
import { readLimited } from "../files.js";
import { isObject, type JsonObject, parseObject } from "../json.js";
import { type AddedToken, checkTokenizerJson } from "./check.js";
import { wordsOf } from "./words.js";

/** The largest published vocabularies take some 35 MB. */
const FILE_LIMIT = 100_000_000;

/** Words whose ids are kept: enough for nearly every word of a corpus, some 20 MB when full. */
const WORD_LIMIT = 1 << 17;

/** What decoders put in place of bytes that are no UTF-8. */
const REPLACEMENT = "\ufffd";

export interface EncodeOptions {
  /** Recognise special tokens written out in the text. For templates, never for what users typed. Default false. */
  specialTokens?: boolean;
}

export interface DecodeOptions {
  /** Leave special tokens out. Default false: they appear as they are written. */
  skipSpecialTokens?: boolean;
}

export class Tokenizer {
  readonly path: string;
  /** Of the file: two tokenizers with the same hash give the same ids. */
  readonly sha256: string;
  /** One more than the largest id. */
  readonly vocabSize: number;
  readonly specialIds: ReadonlySet<number>;
  readonly #full: Implementation;
  /** Knows no special tokens. */
  readonly #plain: Implementation;
  /** How long a text's tokens are together if none of it is lost; undefined when tokens do not spell the text. */
  readonly #spelledLength: ((text: string) => number) | undefined;
  /** Of all tokens. */
  readonly #longest: number;
  /** Ids of words met before; undefined when words cannot be told apart without the implementation. */
  readonly #words: Map<string, readonly number[]> | undefined;

  private constructor(path: string, bytes: Uint8Array) {
    const json = parseObject(bytes, path, "ERR_BAD_TOKENIZER");
    const { added, vocabSize } = checkTokenizerJson(path, json);
    this.path = path;
    this.sha256 = createHash("sha256").update(bytes).digest("hex");
    this.vocabSize = vocabSize;
    this.specialIds = new Set(added.filter(({ special }) => special).map(({ id }) => id));
    const ordinary = added.filter(({ special }) => !special);
    this.#full = build(path, json, added);
    this.#plain = build(path, withoutSpecials(json, added), ordinary);
    this.#spelledLength = ordinary.length === 0 ? spelledLength(json) : undefined;
    this.#longest = longestToken(json);
    this.#words = ordinary.length === 0 && cutsWords(json) ? new Map() : undefined;
  }

  /** Reads a tokenizer.json; ERR_BAD_TOKENIZER when it is too large or malformed. */
  static async load(path: string): Promise<Tokenizer> {
    return new Tokenizer(path, await readLimited(path, FILE_LIMIT, "ERR_BAD_TOKENIZER"));
  }

  /** ERR_BAD_TOKENIZER unless every id has a row among the model's. */
  checkFits(rows: number): void {
    if (this.vocabSize <= rows) return;
    const message = `${this.path}: the tokenizer has ids up to ${this.vocabSize - 1}, the model a vocabulary of ${rows}`;
    throw new NoemaError("ERR_BAD_TOKENIZER", message, { tokenizer: this.vocabSize, model: rows });
  }

  /** ERR_INVALID_ARGUMENT for a text that the vocabulary cannot spell, where it has no unknown token to say so. */
  encode(text: string, { specialTokens = false }: EncodeOptions = {}): Int32Array<ArrayBuffer> {
    if (specialTokens) return Int32Array.from(this.#ids(this.#full, text));
    if (this.#words === undefined) return Int32Array.from(this.#plainIds(text));
    const ids: number[] = [];
    for (const word of wordsOf(text)) {
      for (const id of this.#wordIds(word, this.#words)) ids.push(id);
    }
    return Int32Array.from(ids);
  }

  /** A lower bound on the number of tokens, without tokenising; 0 where tokens do not spell the text. */
  leastTokens(text: string): number {
    return this.#spelledLength === undefined ? 0 : Math.ceil(this.#spelledLength(text) / this.#longest);
  }

  /** An id without a token (models may have more rows than the tokenizer has tokens) becomes U+FFFD, as do bytes that are no UTF-8. */
  decode(ids: ArrayLike<number>, { skipSpecialTokens = false }: DecodeOptions = {}): string {
    let text = "";
    let run: number[] = [];
    const finishRun = () => {
      if (run.length > 0) text += this.#full.decode(run, { clean_up_tokenization_spaces: false });
      run = [];
    };
    for (let i = 0; i < ids.length; i++) {
      const id = checkedId(ids[i]);
      if (skipSpecialTokens && this.specialIds.has(id)) continue;
      if (this.tokenOf(id) === undefined) {
        finishRun();
        text += REPLACEMENT;
      } else run.push(id);
    }
    finishRun();
    return text;
  }

  /** Decodes ids as they come. */
  decodeStream(options: DecodeOptions = {}): DecodeStream {
    return new DecodeStream(this, options);
  }

  idOf(token: string): number | undefined {
    return this.#full.token_to_id(token);
  }

  /** The token as the vocabulary writes it (a byte-level one writes bytes as stand-ins: " a" is "Ġa"). */
  tokenOf(id: number): string | undefined {
    return this.#full.id_to_token(id);
  }

  #wordIds(word: string, words: Map<string, readonly number[]>): readonly number[] {
    const known = words.get(word);
    if (known !== undefined) return known;
    const ids = this.#plainIds(word);
    if (words.size >= WORD_LIMIT) words.clear();
    words.set(word, ids);
    return ids;
  }

  #plainIds(text: string): number[] {
    const ids = this.#ids(this.#plain, text);
    const spelled = this.#spelledLength?.(text);
    if (spelled === undefined) return ids;
    // The implementation drops what it has no token for.
    const length = ids.reduce((sum, id) => sum + (this.tokenOf(id)?.length ?? 0), 0);
    if (length === spelled) return ids;
    const lost = [...text].find((character) => this.#ids(this.#plain, character).length === 0) ?? text;
    const message = `${this.path}: the vocabulary has no token for ${JSON.stringify(lost)}, and none for unknown text`;
    throw new NoemaError("ERR_INVALID_ARGUMENT", message, { text: lost });
  }

  #ids(implementation: Implementation, text: string): number[] {
    const { ids, tokens } = implementation.encode(text, { add_special_tokens: false });
    const missing = ids.indexOf(undefined as unknown as number);
    if (missing < 0) return ids;
    const message = `${this.path}: the token ${JSON.stringify(tokens[missing])} has no id, and there is no unknown token`;
    throw new NoemaError("ERR_BAD_TOKENIZER", message);
  }
}

/** Text whose last character may still lack bytes is held back until they have come. */
export class DecodeStream {
  readonly #tokenizer: Tokenizer;
  readonly #options: DecodeOptions;
  /** Ids that are decoded together; the text before `#emitted` has been given out. */
  #ids: number[] = [];
  #emitted = 0;

  constructor(tokenizer: Tokenizer, options: DecodeOptions) {
    this.#tokenizer = tokenizer;
    this.#options = options;
  }

  /** The text that these ids make final. */
  push(ids: ArrayLike<number>): string {
    const before = this.#ids.length;
    for (let i = 0; i < ids.length; i++) this.#ids.push(ids[i]!);
    const text = this.#tokenizer.decode(this.#ids, this.#options);
    // A sequence cut short decodes to one U+FFFD at the very end: only that one can change.
    const isWhole = !text.endsWith(REPLACEMENT);
    const fresh = text.slice(this.#emitted, isWhole ? text.length : -1);
    if (isWhole && before < this.#ids.length) this.#restart();
    else this.#emitted += fresh.length;
    return fresh;
  }

  /** What was held back; no more is to come. */
  end(): string {
    const rest = this.#tokenizer.decode(this.#ids, this.#options).slice(this.#emitted);
    this.#ids = [];
    this.#emitted = 0;
    return rest;
  }

  /** Keeps the last id as context: some decoders treat the first token of a text differently. */
  #restart(): void {
    this.#ids = this.#ids.slice(-1);
    this.#emitted = this.#tokenizer.decode(this.#ids, this.#options).length;
  }
}

function checkedId(id: unknown): number {
  if (Number.isInteger(id) && (id as number) >= 0) return id as number;
  throw new NoemaError("ERR_INVALID_ARGUMENT", `token id ${String(id)}: expected a non-negative integer`, { id });
}

function build(path: string, json: JsonObject, added: readonly AddedToken[]): Implementation {
  const complete = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, ...json };
  try {
    return new Implementation({ ...complete, added_tokens: added }, { clean_up_tokenization_spaces: false });
  } catch (error) {
    throw new NoemaError("ERR_BAD_TOKENIZER", `${path}: ${(error as Error).message}`, { path }, { cause: error });
  }
}

/**
 * The same tokenizer with special tokens struck from the vocabulary too, where they may be listed (as one-character tokens,
 * say): no text can spell them. The unknown token stays: it stands for text.
 */
function withoutSpecials(json: JsonObject, added: readonly AddedToken[]): JsonObject {
  const { model } = json;
  if (!isObject(model) || !isObject(model.vocab)) return json;
  const struck = new Set(added.filter(({ special }) => special).map(({ content }) => content));
  struck.delete(model.unk_token as string);
  const vocab = Object.fromEntries(Object.entries(model.vocab).filter(([token]) => !struck.has(token)));
  return { ...json, model: { ...model, vocab } };
}

/** Only BPE without an unknown token loses text in silence; there a token's length is its characters, or its bytes. */
function spelledLength({ model, normalizer, pre_tokenizer: cut }: JsonObject): ((text: string) => number) | undefined {
  if (!isObject(model) || model.type !== "BPE" || normalizer != null) return undefined;
  if (
    model.unk_token != null ||
    model.byte_fallback === true ||
    model.end_of_word_suffix ||
    model.continuing_subword_suffix
  )
    return undefined;
  if (cut == null) return (text) => text.length;
  return isObject(cut) && cut.type === "ByteLevel" && cut.add_prefix_space === false ? Buffer.byteLength : undefined;
}

function longestToken({ model }: JsonObject): number {
  const tokens = isObject(model) && isObject(model.vocab) ? Object.keys(model.vocab) : [];
  return tokens.reduce((longest, token) => Math.max(longest, token.length), 1);
}

/** Whether the text's ids are those of its words, one after the other. */
function cutsWords({ normalizer, pre_tokenizer: cut }: JsonObject): boolean {
  const isByteLevel = isObject(cut) && cut.type === "ByteLevel" && cut.add_prefix_space === false;
  return normalizer == null && isByteLevel && cut.use_regex !== false;
}
