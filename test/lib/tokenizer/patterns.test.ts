import test from "ava";
import fc from "fast-check";
import { patternProblem } from "../../../lib/tokenizer/patterns.js";

const contractions = "'s|'t|'re|'ve|'m|'ll|'d";
const capitals = String.raw`\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}`;
const smalls = String.raw`\p{Ll}\p{Lm}\p{Lo}\p{M}`;
const spaces = String.raw`\s*[\r\n]+|\s+(?!\S)|\s+`;
const accepted = {
  "GPT-2": String.raw`${contractions}| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
  "GPT-4, Llama 3": String.raw`(?i:${contractions})|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|${spaces}`,
  "Qwen, LLaDA, Dream": String.raw`(?i:${contractions})|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|${spaces}`,
  o200k: [
    String.raw`[^\r\n\p{L}\p{N}]?[${capitals}]*[${smalls}]+(?i:${contractions})?`,
    String.raw`[^\r\n\p{L}\p{N}]?[${capitals}]+[${smalls}]*(?i:${contractions})?`,
    String.raw`\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|${spaces}`,
  ].join("|"),
  Bloom: String.raw` ?[^(\s|[.,!?…。，、।۔،])]+`,
  CLIP: String.raw`<\|startoftext\|>|<\|endoftext\|>|${contractions}|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`,
  simple: String.raw`[\r\n]|\t| {2,}|\s?\p{L}+|[[:punct:]]|▁`,
};

/** Each takes seconds or more for some text, or may match nothing. */
const refused = [
  "(a+)+$",
  "(?:a|aa)+$",
  "(a|a)*b",
  "(?:a?){20}b",
  "^(([a-z])+.)+[A-Z]([a-z])+$",
  "a+b",
  ".*.*x",
  String.raw`\s+$`,
  String.raw`\s*[\r\n]+`,
  String.raw`(a)\1`,
  "(?=a)b",
  "[a&&[b]]+c",
  "a{2,}+b",
  "a?".repeat(12).concat("b"),
  "(?:a|aa)".repeat(10).concat("b"),
  "a{99}".repeat(30),
  "a|".repeat(2000),
  "a*",
  "a|",
  "",
  "[a",
  "(a",
];

test("the patterns of published tokenizers are run", (t) => {
  for (const [name, pattern] of Object.entries(accepted)) t.is(patternProblem(pattern), undefined, name);
});

test("patterns that may take more than linear time are not", (t) => {
  for (const pattern of refused) t.is(typeof patternProblem(pattern), "string", pattern);
});

test("whatever is accepted is quick, on texts that make it go back", (t) => {
  const piece = fc.constantFrom(
    ..."ab.|",
    "[ab]",
    "[^b]",
    "\\s",
    "(a|ab)",
    "(?:a)",
    "*",
    "+",
    "?",
    "{2}",
    "{1,3}",
    "$",
    "(",
    ")",
  );
  const patterns = fc.array(piece, { minLength: 1, maxLength: 8 }).map((pieces) => pieces.join(""));
  const texts = ["a", "b", "ab", " "].map((unit) => unit.repeat(20_000 / unit.length).concat("!"));
  fc.assert(
    fc.property(patterns, (pattern) => {
      fc.pre(patternProblem(pattern) === undefined);
      const compiled = compile(pattern);
      fc.pre(compiled !== undefined);
      const start = performance.now();
      for (const text of texts) text.match(compiled!);
      t.true(performance.now() - start < 1000, pattern);
    }),
    { numRuns: 300 },
  );
});

function compile(pattern: string): RegExp | undefined {
  try {
    return new RegExp(pattern, "gu");
  } catch {
    return undefined;
  }
}
