/** What a tokenizer.json must have before its reader is let near it. */

import { NoemaError } from "../errors.js";
import { describe, isObject, type JsonObject } from "../json.js";
import { checkSteps } from "./steps.js";

/** Ids are 32-bit integers on the native side, and a table is made with a place for each. */
const ID_LIMIT = 1 << 24;

const modelTypes: readonly unknown[] = ["BPE", "Unigram", "WordPiece"];

export interface AddedToken {
  id: number;
  content: string;
  special: boolean;
}

export interface Vocabulary {
  /** As the file has them, further keys included. */
  added: AddedToken[];
  /** One more than the largest id. */
  vocabSize: number;
}

/** Checks the parts that the reader takes on trust: steps, vocabulary, merges and added tokens; ERR_BAD_TOKENIZER naming what is wrong. */
export function checkTokenizerJson(path: string, json: JsonObject): Vocabulary {
  const { model, added_tokens: addedTokens = [] } = json;
  const bad = (problem: string) => new NoemaError("ERR_BAD_TOKENIZER", `${path}: ${problem}`, { path });
  if (!isObject(model)) throw bad(`"model": found ${describe(model)}, expected an object`);
  if (!modelTypes.includes(model.type))
    throw bad(`"model.type": found ${describe(model.type)}, expected ${modelTypes.join(", ")}`);
  checkSteps(json, model, bad);
  const ids = vocabularyIds(model, bad);
  checkMerges(model, bad);
  if (!Array.isArray(addedTokens)) throw bad(`"added_tokens": found ${describe(addedTokens)}, expected an array`);
  const added = addedTokens.map((token, i) => checkAdded(token, `number ${i}`, bad));
  for (const { id, content } of added) {
    const other = ids.get(id);
    if (other !== undefined && other !== content)
      throw bad(`id ${id} is both "${other}" and the added token "${content}"`);
    ids.set(id, content);
  }
  return { added, vocabSize: [...ids.keys()].reduce((largest, id) => Math.max(largest, id), -1) + 1 };
}

type Bad = (problem: string) => NoemaError;

/** Id -> token. A Unigram vocabulary is a list, the others are objects of ids. */
function vocabularyIds({ vocab }: JsonObject, bad: Bad): Map<number, string> {
  const entries = Array.isArray(vocab) ? vocab.map(listEntry) : isObject(vocab) ? Object.entries(vocab) : [];
  if (entries.length === 0) throw bad(`"model.vocab": found ${describe(vocab)}, expected a vocabulary`);
  const ids = new Map<number, string>();
  for (const [token, id] of entries) {
    if (typeof token !== "string" || !isId(id)) {
      throw bad(
        `"model.vocab": ${describe(token)}: found id ${describe(id)}, expected an integer 0 .. ${ID_LIMIT - 1}`,
      );
    }
    if (ids.has(id)) throw bad(`"model.vocab": "${ids.get(id)}" and "${token}" share the id ${id}`);
    ids.set(id, token);
  }
  return ids;
}

function listEntry(entry: unknown, id: number): [unknown, unknown] {
  return [Array.isArray(entry) ? entry[0] : undefined, id];
}

function isId(id: unknown): id is number {
  return Number.isInteger(id) && (id as number) >= 0 && (id as number) < ID_LIMIT;
}

/** Every merge must join two tokens of the vocabulary into a third. */
function checkMerges({ type, vocab, merges, continuing_subword_prefix: prefix }: JsonObject, bad: Bad): void {
  if (type !== "BPE") return;
  if (!isObject(vocab)) throw bad(`"model.vocab": found ${describe(vocab)}, expected an object of ids`);
  if (!Array.isArray(merges)) throw bad(`"model.merges": found ${describe(merges)}, expected an array`);
  for (const [i, merge] of merges.entries()) {
    const pair: unknown[] = typeof merge === "string" ? merge.split(" ") : Array.isArray(merge) ? merge : [];
    // With a prefix the joined token lacks the right part's prefix: only the parts are checked.
    const needed = prefix == null || prefix === "" ? [...pair, pair.join("")] : pair;
    if (pair.length === 2 && needed.every((token) => typeof token === "string" && Object.hasOwn(vocab, token)))
      continue;
    throw bad(
      `"model.merges": number ${i}, ${describe(merge)}, does not join two tokens of the vocabulary into a third`,
    );
  }
}

function checkAdded(token: unknown, place: string, bad: Bad): AddedToken {
  if (isObject(token) && isId(token.id) && typeof token.content === "string" && token.content !== "") {
    return { ...token, id: token.id, content: token.content, special: token.special === true };
  }
  const found = isObject(token) ? `id ${describe(token.id)} and content ${describe(token.content)}` : describe(token);
  throw bad(`"added_tokens": ${place}: found ${found}, expected an object with id and content`);
}
