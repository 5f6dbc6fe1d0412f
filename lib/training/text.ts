/**
 * Text files as documents: plain text with lines between them, or JSON lines (`.jsonl`), each an object with a document as its
 * `text`. Files may be larger than memory, so a document arrives in pieces of bounded size, cut at line ends where there are any;
 * the tokens of a document are the tokens of its pieces one after the other.
 */

import { isUtf8 } from "node:buffer";
import { createHash } from "node:crypto";
import { NoemaError } from "../errors.js";
import { ioError, openRegular } from "../files.js";
import { describe, parseObject } from "../json.js";

export const DEFAULT_SEPARATOR = "<|endoftext|>";

/** Long enough that cuts are rare, short enough that tokenising a piece holds the event loop for milliseconds. */
export const PIECE_CHARACTERS = 1 << 14;

/** A line of JSON is parsed whole, so it must fit into memory: several times the longest book. */
const JSON_CHARACTERS = 1 << 24;

/** One bad byte in a thousand still passes: real text collections hold stray bytes, binary formats hold far more. */
const BAD_BYTES_PER_BYTE = 1e-3;

export interface TextOptions {
  /** A line that consists of this ends a document; it is never part of one. "" makes every file one document. JSON lines need none. */
  separator?: string;
}

/** Part of a document; `last` closes the document. Every document has at least one non-empty piece. */
export interface TextPiece {
  text: string;
  last: boolean;
}

export interface TextFileSummary {
  path: string;
  bytes: number;
  sha256: string;
}

/** Reads the whole file once: its size and hash. Refuses what is not text: empty files, and NULs or malformed UTF-8 above a rate. */
export async function inspectTextFile(path: string): Promise<TextFileSummary> {
  const hash = createHash("sha256");
  const bad = { count: 0, first: -1 };
  let bytes = 0;
  let tail: Buffer = Buffer.alloc(0);
  for await (const chunk of readChunks(path)) {
    hash.update(chunk);
    const block = tail.length > 0 ? Buffer.concat([tail, chunk]) : chunk;
    const complete = completeLength(block);
    countBadBytes(block.subarray(0, complete), bytes - tail.length, bad);
    tail = Buffer.from(block.subarray(complete));
    bytes += chunk.length;
  }
  if (bytes === 0) throw new NoemaError("ERR_BAD_CORPUS", `${path}: the file is empty`, { path });
  if (tail.length > 0) countBadBytes(tail, bytes - tail.length, bad);
  if (bad.count > bytes * BAD_BYTES_PER_BYTE) throw notText(path, bytes, bad);
  return { path, bytes, sha256: hash.digest("hex") };
}

/** The documents of a file in pieces. Line ends become "\n"; blank lines around a document and empty documents are dropped. */
export async function* readPieces(path: string, options: TextOptions = {}): AsyncGenerator<TextPiece> {
  const separator = options.separator ?? DEFAULT_SEPARATOR;
  const document = new PieceBuilder();
  if (isJsonLines(path)) {
    for await (const text of textsOfJson(path)) {
      for (const line of linesOf(text)) yield* document.append(line);
      yield* document.finish();
    }
    return;
  }
  for await (const line of readLines(path)) {
    if (separator !== "" && line.text.trim() === separator) yield* document.finish();
    else yield* document.append(line);
  }
  yield* document.finish();
}

/** Whether the file's name says that it holds JSON lines. */
export function isJsonLines(path: string): boolean {
  return /\.jsonl$/i.test(path);
}

/** The texts of a file of JSON lines; blank lines count, and hold none. */
async function* textsOfJson(path: string): AsyncGenerator<string> {
  let line = "";
  let number = 1;
  for await (const { text, ended } of readLines(path)) {
    if (line.length + text.length > JSON_CHARACTERS)
      throw badLine(path, number, `more than ${JSON_CHARACTERS} characters`);
    line += text;
    if (!ended) continue;
    if (line.trim() !== "") yield textOf(line, path, number);
    line = "";
    number++;
  }
}

function textOf(line: string, path: string, number: number): string {
  const { text } = parseObject(Buffer.from(line), `${path}: line ${number}`, "ERR_BAD_CORPUS");
  // JSON can write halves of characters that no file can hold.
  if (typeof text === "string") return text.replace(/\p{Surrogate}/gu, "\ufffd");
  throw badLine(path, number, `"text" is ${describe(text)}, expected a string`);
}

function badLine(path: string, line: number, problem: string): NoemaError {
  return new NoemaError("ERR_BAD_CORPUS", `${path}: line ${line}: ${problem}`, { path, line });
}

interface Line {
  text: string;
  /** False when the line was too long to hold and goes on in the next Line. */
  ended: boolean;
}

/** Collects lines into pieces. Line breaks are held back until text follows, so trailing ones never come out. */
class PieceBuilder {
  #text = "";
  #breaks = 0;
  #started = false;
  /** A finished piece waits for its successor: only the successor's absence makes it the last. */
  #waiting: string | undefined;

  *append(line: Line): Generator<TextPiece> {
    if (line.text !== "") {
      if (this.#started) yield* this.#addBreaks();
      this.#started = true;
      this.#breaks = 0;
      if (this.#text.length + line.text.length > PIECE_CHARACTERS) yield* this.#cut();
      this.#text += line.text;
    }
    if (line.ended) this.#breaks++;
  }

  *finish(): Generator<TextPiece> {
    if (this.#text !== "") yield* this.#cut();
    if (this.#waiting !== undefined) yield { text: this.#waiting, last: true };
    this.#waiting = undefined;
    this.#started = false;
    this.#breaks = 0;
  }

  /** A file may have more blank lines than one string can hold. */
  *#addBreaks(): Generator<TextPiece> {
    for (; this.#breaks > PIECE_CHARACTERS; this.#breaks -= PIECE_CHARACTERS) {
      yield* this.#cut();
      this.#text = "\n".repeat(PIECE_CHARACTERS);
    }
    this.#text += "\n".repeat(this.#breaks);
  }

  *#cut(): Generator<TextPiece> {
    if (this.#text === "") return;
    if (this.#waiting !== undefined) yield { text: this.#waiting, last: false };
    this.#waiting = this.#text;
    this.#text = "";
  }
}

async function* readLines(path: string): AsyncGenerator<Line> {
  const decoder = new TextDecoder("utf-8");
  let rest = "";
  for await (const chunk of readChunks(path)) {
    rest += decoder.decode(chunk, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) yield* endedLine(line);
    if (rest.length > PIECE_CHARACTERS) {
      // The last character waits: a "\r" for what follows it, a surrogate pair because it may not be cut.
      const end = rest.length - (isLowSurrogate(rest, rest.length - 1) ? 2 : 1);
      yield* cutLine(rest.slice(0, end), false);
      rest = rest.slice(end);
    }
  }
  rest += decoder.decode();
  if (rest !== "") yield* cutLine(rest, true);
}

/** The lines of a text that is there as a whole. */
function* linesOf(text: string): Generator<Line> {
  for (const line of text.split("\n")) yield* endedLine(line);
}

function* endedLine(line: string): Generator<Line> {
  yield* cutLine(line.endsWith("\r") ? line.slice(0, -1) : line, true);
}

function* cutLine(text: string, ended: boolean): Generator<Line> {
  let start = 0;
  while (text.length - start > PIECE_CHARACTERS) {
    let end = start + PIECE_CHARACTERS;
    if (isLowSurrogate(text, end)) end--; // never between the halves of a pair
    yield { text: text.slice(start, end), ended: false };
    start = end;
  }
  yield { text: text.slice(start), ended };
}

/** Whether the character before this place ends behind it. */
export function isLowSurrogate(text: string, at: number): boolean {
  const unit = text.charCodeAt(at);
  return unit >= 0xdc00 && unit <= 0xdfff;
}

async function* readChunks(path: string): AsyncGenerator<Buffer> {
  try {
    await using handle = await openRegular(path, "ERR_BAD_CORPUS");
    for await (const chunk of handle.createReadStream({ highWaterMark: 1 << 20 })) yield chunk;
  } catch (error) {
    throw ioError("reading", path, error);
  }
}

/** How many bytes of the block are whole characters: the start of one that the next block may finish is left out. */
function completeLength(block: Buffer): number {
  for (let back = 1; back <= Math.min(3, block.length); back++) {
    const byte = block[block.length - back] ?? 0;
    if ((byte & 0xc0) === 0x80) continue; // a continuation byte: its lead is further back
    const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return needed > back ? block.length - back : block.length;
  }
  return block.length;
}

function countBadBytes(block: Buffer, offset: number, bad: { count: number; first: number }): void {
  if (isUtf8(block) && !block.includes(0)) return;
  for (let i = 0; i < block.length; ) {
    const length = block[i] === 0 ? 0 : characterLength(block, i);
    if (length === 0) {
      if (bad.first < 0) bad.first = offset + i;
      bad.count++;
    }
    i += Math.max(1, length);
  }
}

/** Length of the well-formed character that starts at i, 0 when there is none. */
function characterLength(block: Buffer, i: number): number {
  const lead = block[i] ?? 0;
  if (lead < 0x80) return 1;
  const length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  return i + length <= block.length && isUtf8(block.subarray(i, i + length)) ? length : 0;
}

function notText(path: string, bytes: number, bad: { count: number; first: number }): NoemaError {
  return new NoemaError(
    "ERR_BAD_CORPUS",
    `${path}: not a text file: ${bad.count} of ${bytes} bytes are NUL or not UTF-8, the first at offset ${bad.first}`,
    { path, offset: bad.first, badBytes: bad.count, bytes },
  );
}
