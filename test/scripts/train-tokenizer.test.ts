import test from "ava";
import fc from "fast-check";
import { countWords, SPECIAL_TOKENS, tokenizerJson, trainBytePairs } from "../../scripts/train-tokenizer.js";

/** The same training by counting everything anew for each merge. */
function slowly(counts: ReadonlyMap<string, number>, first: string[], size: number): string[] {
  const tokens = [...first];
  const words = [...counts].map(([word, count]) => ({ parts: [...word], count }));
  while (tokens.length < size) {
    const pairs = new Map<string, { left: number; right: number; count: number }>();
    for (const { parts, count } of words) {
      for (let i = 0; i + 1 < parts.length; i++) {
        const [left, right] = [tokens.indexOf(parts[i]!), tokens.indexOf(parts[i + 1]!)];
        const pair = pairs.get(`${left} ${right}`) ?? { left, right, count: 0 };
        pairs.set(`${left} ${right}`, { ...pair, count: pair.count + count });
      }
    }
    const best = [...pairs.values()].sort((a, b) => b.count - a.count || a.left - b.left || a.right - b.right)[0];
    if (best === undefined) break;
    const [left, right] = [tokens[best.left]!, tokens[best.right]!];
    if (!tokens.includes(left + right)) tokens.push(left + right);
    for (const word of words) {
      const parts: string[] = [];
      for (let i = 0; i < word.parts.length; i++) {
        const here = word.parts[i] === left && word.parts[i + 1] === right;
        parts.push(here ? left + right : word.parts[i]!);
        if (here) i++;
      }
      word.parts = parts;
    }
  }
  return tokens;
}

test("incremental counts give what counting anew gives", (t) => {
  const base = SPECIAL_TOKENS.length + 256;
  const words = fc.array(
    fc.tuple(fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 9 }), fc.nat(5)),
  );
  fc.assert(
    fc.property(words, fc.integer({ min: 0, max: 12 }), (list, merges) => {
      const counts = new Map(list.map(([word, count]) => [word, count + 1]));
      const { tokens } = trainBytePairs(counts, base + merges);
      t.deepEqual(tokens, slowly(counts, tokens.slice(0, base), base + merges));
    }),
  );
});

test("words are cut as the tokenizer cuts them, and the vocabulary starts with special tokens and bytes", (t) => {
  const counts = new Map<string, number>();
  countWords("the cat, the hat's é", counts);
  t.deepEqual(Object.fromEntries(counts), { the: 1, " cat": 1, ",": 1, " the": 1, " hat": 1, "'s": 1, " é": 1 });
  const { tokens, merges } = trainBytePairs(counts, 262);
  t.deepEqual(tokens.slice(0, 3), SPECIAL_TOKENS);
  t.is(tokens.indexOf("A"), 3 + 65);
  t.is(tokens.indexOf("Ġ"), 3 + 32);
  t.is(new Set(tokens).size, 262);
  t.deepEqual(
    merges,
    [
      ["a", "t"],
      ["h", "e"],
      ["t", "he"],
    ].slice(0, merges.length),
  );
  const json = tokenizerJson(tokens, merges);
  t.deepEqual(
    json.added_tokens.map(({ id, content }) => [id, content]),
    SPECIAL_TOKENS.map((token, id) => [id, token]),
  );
});

test("text without pairs gives fewer entries", (t) => {
  t.is(trainBytePairs(new Map([["a", 3]]), 300).tokens.length, 259);
});
