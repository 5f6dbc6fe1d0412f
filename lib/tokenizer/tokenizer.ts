/**
 * Text to token ids and back, by a folder's tokenizer.json (Hugging Face's format, read by @huggingface/tokenizers).
 *
 * Special tokens (`<|mask|>`, `<|endoftext|>`, ...) written out in a text are plain characters here unless the caller says
 * otherwise: what a user types can neither end a document nor punch holes into it. No post-processor runs: which tokens
 * frame a text is the model's business.
 *
 * A tokenizer may have a normaliser, which makes capitals small, say; what it leaves out altogether is refused here unless the caller
 * says otherwise.
 */

import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import { Tokenizer as Implementation } from "@huggingface/tokenizers";
import { checkNames, invalid, isList } from "../decoding/options.js";
import { NoemaError } from "../errors.js";
import { readLimited } from "../files.js";
import { describe, isObject, type JsonObject, parseObject } from "../json.js";
import { type AddedToken, checkTokenizerJson, type Vocabulary } from "./check.js";
import { wordsOf } from "./words.js";

/** The largest published vocabularies take some 35 MB. */
const FILE_LIMIT = 100_000_000;

/** Words whose ids are kept: enough for nearly every word of a corpus, some 20 MB when full. */
const WORD_LIMIT = 1 << 17;

/** Longer words are rare, and would seldom be met again. */
const KEPT_LENGTH = 32;

/**
 * Merging the parts of one word takes microseconds each, in one stretch. Pieces of a corpus are a quarter as long, so this is for
 * texts of one endless word.
 */
const WORD_LENGTH_LIMIT = 1 << 16;

/** Characters that are known to have tokens. */
const SPELLED_LIMIT = 1 << 16;

/** What a reader does not see may be left out: it separates words, or controls how they are shown. */
const UNSEEN = /^[\s\p{Cc}\p{Cf}]*$/u;

/** What decoders put in place of bytes that are no UTF-8. */
const REPLACEMENT = "\ufffd";

export interface EncodeOptions {
  /** Recognise special tokens written out in the text. For templates, never for what users typed. Default false. */
  specialTokens?: boolean;
  /** Leave out characters that the tokenizer's own normaliser deletes. For corpora. Default false: they are refused. */
  allowDeletions?: boolean;
}

const encodeNames = ["specialTokens", "allowDeletions"];
const decodeNames = ["skipSpecialTokens"];

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
  /** Characters met before that do not vanish. */
  readonly #spelled = new Set<string>();
  /** The id that stands for text without tokens. */
  readonly #unknownId: number | undefined;

  private constructor({ path, sha256, json, vocabulary, full, plain }: Parts) {
    const { added, vocabSize } = vocabulary;
    this.path = path;
    this.sha256 = sha256;
    this.vocabSize = vocabSize;
    this.specialIds = new Set(added.filter(({ special }) => special).map(({ id }) => id));
    this.#full = full;
    this.#plain = plain;
    const isOrdinary = added.every(({ special }) => special);
    this.#spelledLength = isOrdinary ? spelledLength(json) : undefined;
    this.#longest = longestToken(json);
    this.#words = isOrdinary && cutsWords(json) ? new Map() : undefined;
    this.#unknownId = unknownId(json, full);
  }

  /** Reads a tokenizer.json; ERR_BAD_TOKENIZER when it is too large, malformed, or has steps that may take time without bound. */
  static async load(path: string): Promise<Tokenizer> {
    const bytes = await readLimited(path, FILE_LIMIT, "ERR_BAD_TOKENIZER");
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    // Large vocabularies take a second in all: between steps, others of the process have their turn.
    await setImmediate();
    const json = parseObject(bytes, path, "ERR_BAD_TOKENIZER");
    await setImmediate();
    const vocabulary = checkTokenizerJson(path, json);
    const { added } = vocabulary;
    await setImmediate();
    const full = build(path, json, added);
    await setImmediate();
    const ordinary = added.filter(({ special }) => !special);
    const plain = build(path, withoutSpecials(json, added), ordinary);
    return new Tokenizer({ path, sha256, json, vocabulary, full, plain });
  }

  /** ERR_BAD_TOKENIZER unless every id has a row among the model's. */
  checkFits(rows: number): void {
    if (this.vocabSize <= rows) return;
    const message = `${this.path}: the tokenizer has ids up to ${this.vocabSize - 1}, the model a vocabulary of ${rows}`;
    throw new NoemaError("ERR_BAD_TOKENIZER", message, { tokenizer: this.vocabSize, model: rows });
  }

  /**
   * ERR_INVALID_ARGUMENT, with the first such character in `details`, for a text that the vocabulary cannot spell, where it has no
   * unknown token to say so; and for one with a word of more than 65,536 characters.
   */
  encode(text: string, options: EncodeOptions = {}): Int32Array<ArrayBuffer> {
    if (typeof text !== "string") throw invalid("text", text, "a string");
    const { specialTokens = false, allowDeletions = false } = checkFlags(options, encodeNames, "encode");
    if (specialTokens) return Int32Array.from(this.#ids(this.#full, text));
    if (this.#words === undefined) {
      if (!allowDeletions) this.#refuseDeletions(text);
      return Int32Array.from(this.#plainIds(text));
    }
    const ids: number[] = [];
    for (const word of wordsOf(text)) {
      for (const id of this.#wordIds(word, this.#words)) ids.push(id);
    }
    return Int32Array.from(ids);
  }

  /** A lower bound on the number of tokens, without tokenising; 0 where tokens do not spell the text. */
  leastTokens(text: string): number {
    if (typeof text !== "string") throw invalid("text", text, "a string");
    return this.#spelledLength === undefined ? 0 : Math.ceil(this.#spelledLength(text) / this.#longest);
  }

  /**
   * The text that a text's ids stand for: the text itself, unless the tokenizer folds or leaves out some of it. Unknown tokens stand
   * for none.
   */
  standsFor(text: string, ids: ArrayLike<number>): string {
    if (this.#spelledLength !== undefined) return text;
    const known = Array.from(ids).filter((id) => id !== this.#unknownId);
    return this.decode(known);
  }

  /** An id without a token (models may have more rows than the tokenizer has tokens) becomes U+FFFD, as do bytes that are no UTF-8. */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    if (!isList(ids)) throw invalid("ids", ids, "a list of token ids");
    const { skipSpecialTokens = false } = checkFlags(options, decodeNames, "decode");
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
    checkFlags(options, decodeNames, "decode");
    return new DecodeStream(this, options);
  }

  idOf(token: string): number | undefined {
    if (typeof token !== "string") throw invalid("token", token, "a string");
    return this.#full.token_to_id(token);
  }

  /** The token as the vocabulary writes it (a byte-level one writes bytes as stand-ins: " a" is "Ġa"). */
  tokenOf(id: number): string | undefined {
    return this.#full.id_to_token(checkedId(id));
  }

  #wordIds(word: string, words: Map<string, readonly number[]>): readonly number[] {
    const known = words.get(word);
    if (known !== undefined) return known;
    const ids = this.#plainIds(word);
    if (word.length > KEPT_LENGTH) return ids;
    if (words.size >= WORD_LIMIT) words.clear();
    words.set(detached(word), ids);
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

  /** Where the vocabulary has a token for everything, or one for what is unknown, only the steps before it can lose text. */
  #refuseDeletions(text: string): void {
    if (this.#spelledLength !== undefined || [...new Set(text)].every((character) => this.#isSpelled(character)))
      return;
    // A mark that is lost from its letter is folded away, as a capital is: what counts is what a reader takes for one character.
    const lost = [...new Intl.Segmenter().segment(text)].find(({ segment }) => !this.#isSpelled(segment))?.segment;
    if (lost === undefined) return;
    const message = `${this.path}: the tokenizer has no token for ${JSON.stringify(lost)}, and would leave it out`;
    throw new NoemaError("ERR_INVALID_ARGUMENT", message, { text: lost });
  }

  #isSpelled(character: string): boolean {
    if (this.#spelled.has(character)) return true;
    if (!UNSEEN.test(character) && this.#ids(this.#plain, character).length === 0) return false;
    if (this.#spelled.size >= SPELLED_LIMIT) this.#spelled.clear();
    this.#spelled.add(detached(character));
    return true;
  }

  #ids(implementation: Implementation, text: string): number[] {
    if (text.length > WORD_LENGTH_LIMIT) this.#refuseLongWords(implementation, text);
    const { ids, tokens } = implementation.encode(text, { add_special_tokens: false });
    const missing = ids.indexOf(undefined as unknown as number);
    if (missing < 0) return ids;
    const message = `${this.path}: the token ${JSON.stringify(tokens[missing])} has no id, and there is no unknown token`;
    throw new NoemaError("ERR_BAD_TOKENIZER", message);
  }

  /** Words as the implementation cuts them; it may take the whole text for one. */
  #refuseLongWords({ normalizer, pre_tokenizer: cut }: Implementation, text: string): void {
    const normal: string = normalizer ? normalizer(text) : text;
    const words: string[] = cut ? cut(normal, {}) : [normal];
    const long = words.find((word) => word.length > WORD_LENGTH_LIMIT);
    if (long === undefined) return;
    const start = JSON.stringify(text.slice(0, 32));
    const message = `${this.path}: a word of ${long.length} characters without a break, in the text that starts with ${start}; expected at most ${WORD_LENGTH_LIMIT}`;
    throw new NoemaError("ERR_INVALID_ARGUMENT", message, { length: long.length, most: WORD_LENGTH_LIMIT });
  }
}

/** What a tokenizer is made of. */
interface Parts {
  path: string;
  sha256: string;
  json: JsonObject;
  vocabulary: Vocabulary;
  full: Implementation;
  plain: Implementation;
}

/** The ids, unless there are none of a text that is there: who gave it would take it for seen. ERR_INVALID_ARGUMENT naming the text. */
export function idsKept<T extends ArrayLike<number>>(ids: T, text: string, name: string): T {
  if (ids.length > 0 || text === "") return ids;
  throw new NoemaError("ERR_INVALID_ARGUMENT", `${name}: the tokenizer keeps nothing of ${describe(text)}`, { name });
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
    if (!isList(ids)) throw invalid("ids", ids, "a list of token ids");
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

/** The same string in memory of its own: a part of a longer string would keep all of that alive. */
function detached(text: string): string {
  return Buffer.from(text, "utf16le").toString("utf16le"); // the one encoding that loses nothing, halves of pairs included
}

function checkedId(id: unknown): number {
  if (Number.isInteger(id) && (id as number) >= 0) return id as number;
  throw new NoemaError("ERR_INVALID_ARGUMENT", `token id ${describe(id)}: expected a non-negative integer`, { id });
}

/** Options that are true or false, none of them misspelt. */
function checkFlags<T extends object>(options: T, names: readonly string[], what: string): T {
  checkNames(options, names, what);
  for (const [name, value] of Object.entries(options))
    if (value !== undefined && typeof value !== "boolean") throw invalid(name, value, "true or false");
  return options;
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

function unknownId({ model }: JsonObject, full: Implementation): number | undefined {
  if (!isObject(model)) return undefined;
  if (model.type === "Unigram") return typeof model.unk_id === "number" ? model.unk_id : undefined;
  return typeof model.unk_token === "string" ? full.token_to_id(model.unk_token) : undefined;
}
