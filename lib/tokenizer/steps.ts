/** The steps of a tokenizer.json that text goes through before and after the vocabulary: none may take time or memory without bound. */

import type { NoemaError } from "../errors.js";
import { describe, isObject, type JsonObject } from "../json.js";
import { patternProblem } from "./patterns.js";

const STEP_LIMIT = 256;
/** How many times as long all replacements together may make a text; published tokenizers stay below ten. */
const GROWTH_LIMIT = 1024;
const AFFIX_LIMIT = 256;
/** Words that are looked up part by part, in quadratic time; published tokenizers have 100. */
const WORD_LIMIT = 1000;

const stages = ["normalizer", "pre_tokenizer", "decoder"] as const;
/** Keys of text that takes the place of other text, or comes in front of it. */
const insertions = ["content", "prepend", "replacement", "str_rep"];
const affixes = ["continuing_subword_prefix", "continuing_subword_suffix", "end_of_word_suffix"];

type Bad = (problem: string) => NoemaError;

/** Throws what `bad` makes of the first step that cannot be run safely. */
export function checkSteps(json: JsonObject, model: JsonObject, bad: Bad): void {
  for (const stage of stages) checkStage(stage, json[stage], bad);
  for (const name of affixes) {
    const affix = model[name];
    if (affix != null && !(typeof affix === "string" && affix.length <= AFFIX_LIMIT))
      throw bad(`"model.${name}": found ${describe(affix)}, expected at most ${AFFIX_LIMIT} characters`);
  }
  const { max_input_chars_per_word: most = 100 } = model;
  if (!isCount(most) || most > WORD_LIMIT)
    throw bad(`"model.max_input_chars_per_word": found ${describe(most)}, expected an integer 1 .. ${WORD_LIMIT}`);
}

function checkStage(stage: string, root: unknown, bad: Bad): void {
  const left: unknown[] = [root]; // no recursion: a file may nest deeper than the stack
  let steps = 0;
  let growth = 1;
  while (left.length > 0) {
    const value = left.pop();
    if (Array.isArray(value)) for (const entry of value) left.push(entry);
    if (!isObject(value)) continue;
    if (++steps > STEP_LIMIT) throw bad(`"${stage}": more than ${STEP_LIMIT} steps`);
    checkStep(stage, value, bad);
    for (const [key, entry] of Object.entries(value)) {
      if (insertions.includes(key) && typeof entry === "string") growth *= Math.max(1, entry.length);
      else if (key !== "pattern" && typeof entry === "object") left.push(entry);
    }
    if (growth > GROWTH_LIMIT) throw bad(`"${stage}": may make a text more than ${GROWTH_LIMIT} times as long`);
  }
}

function checkStep(stage: string, { type, pattern, length }: JsonObject, bad: Bad): void {
  if (type === "FixedLength" && !isCount(length))
    throw bad(`"${stage}": "length": found ${describe(length)}, expected an integer of at least 1`);
  if (type !== "Split" && type !== "Replace") return;
  const { Regex: regex, String: text } = isObject(pattern) ? pattern : {};
  if (typeof regex === "string") {
    const problem = patternProblem(regex);
    if (problem !== undefined) throw bad(`"${stage}": the pattern ${describe(regex)} is not run: ${problem}`);
  } else if (typeof text !== "string" || text === "" || regex !== undefined)
    throw bad(`"${stage}": "pattern": found ${describe(pattern)}, expected { "Regex": text } or { "String": text }`);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1;
}
