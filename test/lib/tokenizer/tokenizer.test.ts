import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Tokenizer as Implementation } from "@huggingface/tokenizers";
import test, { type ExecutionContext } from "ava";
import fc from "fast-check";
import { NoemaError } from "../../../lib/errors.js";
import { Tokenizer } from "../../../lib/tokenizer/tokenizer.js";
import { temporaryFolder } from "../temporary.js";

const talesPath = fileURLToPath(new URL("../../../models/tales-masked/tokenizer.json", import.meta.url));
const tales = await Tokenizer.load(talesPath);
const talesJson = JSON.parse(await readFile(talesPath, "utf8"));

/** Any Unicode text, with what tokenizers trip over made likely. */
const texts = fc
  .array(
    fc.oneof(
      fc.string({ unit: "binary" }),
      fc.constantFrom(
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "'s",
        "'",
        "Once upon a time",
        " the",
        "12",
        "é",
        "🎉",
        "\ufeff",
        "\0",
      ),
      fc.constantFrom("<|mask|>", "<|endoftext|>", "<|", "|>"),
    ),
  )
  .map((parts) => parts.join(""));

/** A tokenizer of this JSON, in a file of its own. */
async function loadJson(t: ExecutionContext, json: unknown): Promise<Tokenizer> {
  const path = join(await temporaryFolder(t), "tokenizer.json");
  await writeFile(path, typeof json === "string" ? json : JSON.stringify(json));
  return Tokenizer.load(path);
}

/** One token a character; ids in the order given. */
const characters = (list: string, added: object[] = []) => ({
  added_tokens: added,
  decoder: { type: "Fuse" },
  model: { type: "BPE", vocab: Object.fromEntries([...list].map((c, id) => [c, id])), merges: [] },
});

test("the tales tokenizer: 4,096 entries, special tokens first", (t) => {
  t.is(tales.vocabSize, 4096);
  t.deepEqual([...tales.specialIds], [0, 1, 2]);
  t.deepEqual(
    ["<|endoftext|>", "<|mask|>", "<|pad|>"].map((token) => tales.idOf(token)),
    [0, 1, 2],
  );
  t.is(tales.tokenOf(1), "<|mask|>");
  t.is(tales.idOf("no such token"), undefined);
  t.regex(tales.sha256, /^[0-9a-f]{64}$/);
});

test("every text comes back, and special tokens in it are plain characters", (t) => {
  fc.assert(
    fc.property(texts, (text) => {
      const ids = tales.encode(text);
      t.is(tales.decode(ids), text);
      t.false(ids.some((id) => tales.specialIds.has(id)));
    }),
  );
});

test("ids are those of the implementation, word cache or not", (t) => {
  const plain = new Implementation({ ...talesJson, added_tokens: [] }, {});
  const full = new Implementation(talesJson, {});
  fc.assert(
    fc.property(texts, (text) => {
      t.deepEqual([...tales.encode(text)], plain.encode(text).ids);
      t.deepEqual([...tales.encode(text, { specialTokens: true })], full.encode(text).ids);
    }),
  );
});

test("special tokens, when asked for", (t) => {
  const ids = tales.encode("a<|mask|>b", { specialTokens: true });
  t.deepEqual([...ids], [tales.idOf("a"), 1, tales.idOf("b")]);
  t.is(tales.decode(ids), "a<|mask|>b");
  t.is(tales.decode(ids, { skipSpecialTokens: true }), "ab");
});

test("wrong arguments and misspelt options are refused", (t) => {
  const wrong: [() => unknown, RegExp][] = [
    [() => tales.encode(undefined as never), /^text: expected a string, got undefined/],
    [() => tales.encode("a", { specialTokens: 1 as never }), /^specialTokens: expected true or false/],
    [() => tales.decode(5 as never), /^ids: expected a list of token ids, got 5/],
    [() => tales.decode([1], null as never), /^decode options: expected an object/],
    [() => tales.idOf(5 as never), /^token: expected a string/],
    [() => tales.tokenOf("constructor" as never), /^token id "constructor": expected a non-negative integer/],
    [() => tales.tokenOf(-1), /^token id -1/],
  ];
  for (const [call, message] of wrong) t.throws(call, { code: "ERR_INVALID_ARGUMENT", message });
  const misspelt = { skipSpecialToken: true } as object;
  const meant = { code: "ERR_UNKNOWN_OPTION", message: /did you mean "skipSpecialTokens"/ };
  t.throws(() => tales.decode([1], misspelt), meant);
  t.throws(() => tales.decodeStream(misspelt), meant);
  t.throws(() => tales.encode("a", { specialToken: true } as object), { message: /did you mean "specialTokens"/ });
  t.is(tales.tokenOf(4096), undefined);
});

test("words that are kept keep no text alive", async (t) => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const heap = () => {
    collect();
    return process.memoryUsage().heapUsed;
  };
  const tokenizer = await Tokenizer.load(talesPath);
  const before = heap();
  for (let i = 0; i < 1000; i++) {
    // A string of its own, as texts that are read are: a word of it that is a part of it would hold all 16 KB.
    tokenizer.encode(Buffer.from(`${spelt(i).repeat(4)} ${"the cat sat ".repeat(1365)}`).toString());
  }
  t.true(heap() - before < 6e6);
});

/** A number in letters. */
function spelt(number: number): string {
  return [...String(number).padStart(6, "0")].map((digit) => "abcdefghij"[Number(digit)]).join("");
}

test("a word without an end is refused, whichever way words are cut", async (t) => {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, use_regex: false };
  const split = { type: "Split", pattern: { Regex: "\\p{L}+|\\s+" }, behavior: "Isolated" };
  const sequence = { type: "Sequence", pretokenizers: [split, byteLevel] };
  const cut = await loadJson(t, { ...characters("ab\u0120"), pre_tokenizer: sequence, decoder: byteLevel });
  const whole = await loadJson(t, characters("ab "));
  for (const tokenizer of [tales, cut, whole]) {
    t.is(tokenizer.encode("ab ".repeat(1 << 14)).length > 0, true);
    const refused = { code: "ERR_INVALID_ARGUMENT", message: /a word of 65537 characters .*expected at most 65536/ };
    t.throws(() => tokenizer.encode("a".repeat((1 << 16) + 1)), refused);
  }
  t.notThrows(() => cut.encode("ab ".repeat(1 << 16)));
});

/** Small letters and the space are all it spells; what else there is, its normaliser folds or deletes. */
const folding = {
  ...characters("abcdefghijklmnopqrstuvwxyz "),
  normalizer: {
    type: "Sequence",
    normalizers: [
      { type: "NFKD" },
      { type: "Lowercase" },
      { type: "Replace", pattern: { Regex: "[^a-z \\n]" }, content: "" },
    ],
  },
};

test("what a normaliser folds is taken, what it deletes is refused by its name, unless deletions are allowed", async (t) => {
  const tokenizer = await loadJson(t, folding);
  const kept = (text: string) => tokenizer.decode(tokenizer.encode(text));
  t.is(kept("H\u00e9llo he\u0301 x\u0302"), "hello he x");
  t.is(kept("a\tb\u200dc"), "abc"); // what is not seen may go
  for (const [text, lost] of [
    ["\u4e2d\u6587", "\u4e2d"],
    ["tom saw\u6587@", "\u6587"],
    ["3 mice", "3"],
    ["party \u{1f389}", "\u{1f389}"],
    ["\u0301 b", "\u0301"],
  ] as const) {
    const error = t.throws(
      () => tokenizer.encode(text),
      { instanceOf: NoemaError, code: "ERR_INVALID_ARGUMENT" },
      text,
    );
    t.is(error?.details.text, lost);
    t.notThrows(() => tokenizer.encode(text, { allowDeletions: true }));
  }
  t.is(tokenizer.decode(tokenizer.encode("tom saw\u6587@", { allowDeletions: true })), "tom saw");
});

test("the text that ids stand for", async (t) => {
  const text = "Tom, \u4e2d!";
  t.is(tales.standsFor(text, tales.encode(text)), text);
  const tokenizer = await loadJson(t, folding);
  t.is(tokenizer.standsFor(text, tokenizer.encode(text, { allowDeletions: true })), "tom ");
  const lenient = await loadJson(t, { ...folding, normalizer: null, model: { ...folding.model, unk_token: "z" } });
  t.is(lenient.standsFor("a?b", lenient.encode("a?b")), "ab");
});

test("decode: nothing, ids without a token, and what is no id", (t) => {
  t.is(tales.decode([]), "");
  t.is(tales.decode([5000]), "\ufffd");
  const a = tales.idOf("a")!;
  t.is(tales.decode(Int32Array.of(a, 4096, a)), "a\ufffda");
  for (const id of [-1, 0.5, Number.NaN]) t.throws(() => tales.decode([id]), { code: "ERR_INVALID_ARGUMENT" });
});

test("a decode stream holds back what is unfinished, and nothing else", (t) => {
  const party = [...tales.encode("🎉")]; // no token of its own: several with a part of its four bytes each
  t.true(party.length > 1);
  const stream = tales.decodeStream();
  t.is(stream.push(tales.encode("a")), "a");
  for (const id of party.slice(0, -1)) t.is(stream.push([id]), "");
  t.is(stream.push(party.slice(-1)), "🎉");
  t.is(stream.push(party.slice(0, 1)), "");
  t.is(stream.end(), "\ufffd");
});

test("a decode stream gives the text, however the ids arrive", (t) => {
  const ids = fc.oneof(
    texts.map((text) => [...tales.encode(text)]),
    fc.array(fc.integer({ min: 0, max: 4200 })),
  );
  fc.assert(
    fc.property(ids, fc.array(fc.integer({ min: 1, max: 3 })), fc.boolean(), (all, sizes, skipSpecialTokens) => {
      const stream = tales.decodeStream({ skipSpecialTokens });
      let text = "";
      let start = 0;
      for (const size of sizes) {
        text += stream.push(all.slice(start, start + size));
        start += size;
      }
      text += stream.push(all.slice(start));
      text += stream.end();
      t.is(text, tales.decode(all, { skipSpecialTokens }));
    }),
    { numRuns: 300 },
  );
});

test("character vocabularies, and a mask token that is one of the characters", async (t) => {
  const mask = { id: 3, content: "_", special: true };
  const tokenizer = await loadJson(t, characters("ab _?", [mask]));
  t.is(tokenizer.vocabSize, 5);
  t.deepEqual([...tokenizer.encode("ab ba")], [0, 1, 2, 1, 0]);
  t.is(tokenizer.decode([0, 1, 2, 1, 0]), "ab ba");
  t.throws(() => tokenizer.encode("a_b"), { code: "ERR_INVALID_ARGUMENT", message: /no token for "_", and none for/ });
  t.deepEqual([...tokenizer.encode("a_b", { specialTokens: true })], [0, 3, 1]);
});

test("text that a vocabulary cannot spell is refused, or becomes the unknown token", async (t) => {
  const json = characters("ab🎉?");
  const strict = await loadJson(t, json);
  t.is(strict.decode(strict.encode("a🎉b")), "a🎉b");
  t.throws(() => strict.encode("abcab"), { code: "ERR_INVALID_ARGUMENT", message: /no token for "c"/ });
  const lenient = await loadJson(t, { ...json, model: { ...json.model, unk_token: "?" } });
  t.is(lenient.decode(lenient.encode("abcab")), "ab?ab");
  const byteLevel = { type: "ByteLevel", add_prefix_space: false };
  const bytes = await loadJson(t, { ...json, pre_tokenizer: byteLevel, decoder: byteLevel });
  t.deepEqual([...bytes.encode("ab")], [0, 1]);
  t.throws(() => bytes.encode("ab é"), { code: "ERR_INVALID_ARGUMENT", message: /no token for " "/ });
});

test("a tokenizer larger than the model is refused with both sizes", (t) => {
  t.notThrows(() => tales.checkFits(4096));
  t.throws(() => tales.checkFits(4000), {
    code: "ERR_BAD_TOKENIZER",
    message: /has ids up to 4095, the model a vocabulary of 4000/,
  });
});

test("steps that may take time or memory without bound are refused", async (t) => {
  const good = characters("ab");
  const split = (pattern: unknown) => ({ ...good, pre_tokenizer: { type: "Split", pattern, behavior: "Isolated" } });
  const replace = (content: string) => ({ type: "Replace", pattern: { String: "a" }, content });
  const normalizers = (...steps: object[]) => ({ ...good, normalizer: { type: "Sequence", normalizers: steps } });
  const nested = `{"model":${JSON.stringify(good.model)},"normalizer":${'{"type":"Sequence","normalizers":['.repeat(1000)}null${"]}".repeat(1000)}}`;
  const cases: [unknown, RegExp][] = [
    [split({ Regex: "(a+)+$" }), /"pre_tokenizer": the pattern "\(a\+\)\+\$" is not run: it has more than plain/],
    [normalizers({ ...replace(""), pattern: { Regex: "(a|a)*b" } }), /"normalizer": the pattern .* repeats a group/],
    [{ ...good, decoder: { type: "Replace", pattern: { Regex: "a+b" }, content: "" } }, /"decoder": .* back over/],
    [split({ String: "" }), /"pattern": found an object, expected/],
    [split(undefined), /"pattern": found nothing, expected/],
    [normalizers(...new Array(20).fill(replace("aa"))), /"normalizer": may make a text more than 1024 times as long/],
    [normalizers(...new Array(300).fill({ type: "NFC" })), /"normalizer": more than 256 steps/],
    [nested, /"normalizer": more than 256 steps/],
    [
      { ...good, pre_tokenizer: { type: "FixedLength", length: 0 } },
      /"length": found 0, expected an integer of at least 1/,
    ],
    [
      { ...good, model: { ...good.model, max_input_chars_per_word: 1e9 } },
      /max_input_chars_per_word": found 1000000000/,
    ],
    [{ ...good, model: { ...good.model, end_of_word_suffix: "x".repeat(300) } }, /end_of_word_suffix": found "x/],
  ];
  for (const [json, message] of cases) await t.throwsAsync(loadJson(t, json), { code: "ERR_BAD_TOKENIZER", message });
  await t.notThrowsAsync(loadJson(t, normalizers(replace("b"), { type: "Prepend", prepend: "a" })));
});

test("malformed files are ERR_BAD_TOKENIZER, a missing one is ERR_IO", async (t) => {
  const good = characters("ab");
  const model = (changes: object) => ({ ...good, model: { ...good.model, ...changes } });
  const cases: [unknown, RegExp][] = [
    ["", /not valid JSON/],
    ["[]", /found an array, expected an object/],
    ['{"model":{},"model":{}}', /"model" occurs twice/],
    [{}, /"model": found nothing/],
    [model({ type: "Nonsense" }), /"model.type": found "Nonsense", expected BPE, Unigram, WordPiece/],
    [model({ vocab: {} }), /"model.vocab": found an object, expected a vocabulary/],
    [model({ vocab: 7 }), /"model.vocab": found 7/],
    [model({ vocab: [["a", 0]] }), /"model.vocab": found an array, expected an object of ids/],
    [model({ vocab: { a: -1 } }), /"a": found id -1, expected an integer 0 \.\. 16777215/],
    [model({ vocab: { a: 2 ** 24 } }), /"a": found id 16777216/],
    [model({ vocab: { a: 0, b: 0 } }), /"a" and "b" share the id 0/],
    [model({ merges: null }), /"model.merges": found null/],
    [model({ merges: ["a b"] }), /number 0, "a b", does not join two tokens/],
    [model({ merges: [["a", "b"]] }), /number 0, an array, does not join/],
    [model({ merges: [7] }), /number 0, 7, does not join/],
    [model({ merges: ["a b c"] }), /number 0, "a b c", does not join/],
    [{ ...good, added_tokens: {} }, /"added_tokens": found an object/],
    [{ ...good, added_tokens: [{ id: 1 }] }, /"added_tokens": number 0: found id 1 and content nothing/],
    [{ ...good, added_tokens: [{ id: 1, content: "c" }] }, /id 1 is both "b" and the added token "c"/],
    [{ ...good, decoder: { type: "Nonsense" } }, /Unknown Decoder type: Nonsense/],
  ];
  for (const [json, message] of cases) {
    await t.throwsAsync(loadJson(t, json), { code: "ERR_BAD_TOKENIZER", message }, JSON.stringify(json));
  }
  await t.throwsAsync(Tokenizer.load(join(await temporaryFolder(t), "none")), { code: "ERR_IO" });
});
