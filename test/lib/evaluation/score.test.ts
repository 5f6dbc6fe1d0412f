import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import type { Scorer } from "../../../lib/evaluation/bound.js";
import { evaluate } from "../../../lib/evaluation/evaluate.js";
import { score } from "../../../lib/evaluation/score.js";
import { noText, windowsOfFiles, windowsOfIds } from "../../../lib/evaluation/windows.js";
import type { LossRequest } from "../../../lib/native/addon.js";
import { scratch } from "../training/scratch.js";

const MASK = 300;

/** Bytes are ids; every hidden token costs ln 2 whatever is seen, so every estimate is exact. */
class CoinModel implements Scorer {
  readonly maskId = MASK;
  readonly maxPositions = 16;
  readonly eosTokenId = 0;
  readonly tokenizer = { encode: (text: string) => Int32Array.from(Buffer.from(text)) };
  calls = 0;
  cost = Math.LN2;

  async losses(request: LossRequest): Promise<Float32Array> {
    this.calls++;
    return Float32Array.from(request.targets, (target) => (target >= 0 ? this.cost : 0));
  }
}

async function file(text: string | Uint8Array): Promise<string> {
  const path = join(await scratch(), "corpus.txt");
  await writeFile(path, text);
  return path;
}

async function windows(text: string, options: Partial<Parameters<typeof windowsOfFiles>[2]>) {
  const out: number[][] = [];
  const encoder = new CoinModel().tokenizer;
  for await (const { ids } of windowsOfFiles([await file(text)], encoder, { length: 4, ...options }))
    out.push([...ids]);
  return out.map((ids) => ids.map((id) => (id === 0 ? "$" : String.fromCharCode(id))).join(""));
}

test("score: the fixed-count form is exact for a coin, with no error over draws", async (t) => {
  const result = await score(new CoinModel(), "abcdefghij", { draws: 8 });
  t.true(Math.abs(result.nats - 10 * Math.LN2) < 1e-5);
  t.true(result.standardError < 1e-5);
  t.like(result, { bound: "upper", tokens: 10, draws: 8, form: "fixed-count", windows: 1 });
});

test("score: text and its ids agree; long texts are cut into windows", async (t) => {
  const text = "The quick brown fox jumps over the lazy dog.";
  const byText = await score(new CoinModel(), text, { form: "stratified" });
  t.deepEqual(await score(new CoinModel(), Buffer.from(text), { form: "stratified" }), byText);
  t.is(byText.windows, 3);
  t.is(byText.tokens, 44);
  t.true(Math.abs(byText.nats / 44 - Math.LN2) < 0.2);
});

test("score: a context is not scored, and must leave room", async (t) => {
  const result = await score(new CoinModel(), "world", { context: "hello " });
  t.is(result.tokens, 5);
  await t.throwsAsync(score(new CoinModel(), "x", { context: "0123456789abcdef" }), { code: "ERR_PROMPT_TOO_LONG" });
});

test("score: bad input is refused", async (t) => {
  await t.throwsAsync(score(new CoinModel(), ""), { code: "ERR_INVALID_ARGUMENT", message: /empty/ });
  await t.throwsAsync(score(new CoinModel(), "a", { length: 17 }), {
    code: "ERR_INVALID_ARGUMENT",
    message: /1 \.\. 16/,
  });
  const { maskId, maxPositions, losses } = new CoinModel();
  const bare = { maskId, maxPositions, losses };
  await t.throwsAsync(score(bare, "a"), { code: "ERR_BAD_TOKENIZER" });
});

test("score and evaluate: a misspelt option is answered with the nearest one", async (t) => {
  const wrong = (options: object) => score(new CoinModel(), "abc", options);
  await t.throwsAsync(wrong({ drawz: 3 }), { code: "ERR_UNKNOWN_OPTION", message: /did you mean "draws"/ });
  await t.throwsAsync(wrong({ form: "stratifed" }), {
    code: "ERR_UNKNOWN_OPTION",
    message: /did you mean "stratified"/,
  });
  await t.throwsAsync(wrong({ callTokens: -1 }), { code: "ERR_INVALID_ARGUMENT", message: /callTokens is -1/ });
  const other = (options: object) => evaluate(new CoinModel(), "/nonexistent", options);
  await t.throwsAsync(other({ limits: 3 }), { code: "ERR_UNKNOWN_OPTION", message: /did you mean "limit"/ });
  await t.throwsAsync(other({ packing: "document" }), { message: /did you mean "documents"/ });
});

test("score: a loss that is no number is ERR_NON_FINITE", async (t) => {
  const model = new CoinModel();
  model.cost = Number.NaN;
  await t.throwsAsync(score(model, "abc"), { code: "ERR_NON_FINITE" });
});

test("windows: packed documents with their ends, the rest is one shorter window", async (t) => {
  t.deepEqual(await windows("ab\n<|endoftext|>\ncdefg\n", { eosId: 0 }), ["ab$c", "defg", "$"]);
  t.deepEqual(await windows("ab\n<|endoftext|>\ncdefg\n", {}), ["abcd", "efg"]);
  t.deepEqual(await windows("abcdefgh", { limit: 1 }), ["abcd"]);
});

test("windows: documents by themselves", async (t) => {
  t.deepEqual(await windows("ab\n<|endoftext|>\ncdefg\n", { eosId: 0, packing: "documents" }), ["ab$", "cdef", "g$"]);
  t.deepEqual(await windows("ab\n<|endoftext|>\ncdefg\n", { packing: "documents", limit: 2 }), ["ab", "cdef"]);
});

test("windows: without more than the prefix they are left out, and do not count", async (t) => {
  t.deepEqual(await windows("abcdefgh\nij", { prefix: 2 }), ["abcd", "efgh"].concat("\nij"));
  t.deepEqual(await windows("abcdefghij", { prefix: 2 }), ["abcd", "efgh"]);
  const documents = "a\n<|endoftext|>\nbcd\n<|endoftext|>\nefg";
  t.deepEqual(await windows(documents, { prefix: 2, packing: "documents", limit: 1 }), ["bcd"]);
  const attempt = windows("ab\n<|endoftext|>\nc", { prefix: 2, packing: "documents" });
  await t.throwsAsync(attempt, { code: "ERR_BAD_CORPUS", message: /no window is longer than the prefix of 2 tokens/ });
});

test("windows: every line of JSON is a document", async (t) => {
  const path = join(await scratch(), "corpus.jsonl");
  await writeFile(path, '{"text": "ab"}\n{"text": "cdefg", "id": 3}\n');
  const count = noText();
  const found: string[] = [];
  const cut = { length: 4, eosId: 36, packing: "documents" } as const;
  for await (const { ids } of windowsOfFiles([path], new CoinModel().tokenizer, cut, count))
    found.push(Buffer.from(ids).toString());
  t.deepEqual(found, ["ab$", "cdef", "g$"]);
  t.deepEqual(count, { characters: 7, bytes: 7, tokens: 9, bytesRead: 7, isAltered: false });
});

test("windows of ids are numbered, the context belongs to the first", (t) => {
  const found = windowsOfIds([3, 4, 5, 6, 7], 4, [1, 2]);
  t.deepEqual(
    found.map(({ index, ids, context }) => [index, [...ids], context ?? 0]),
    [
      [0, [1, 2, 3, 4], 2],
      [1, [5, 6, 7], 0],
    ],
  );
});

/** Small letters alone are its tokens: capitals become small, all else is left out, or refused. */
class LetterModel extends CoinModel {
  override readonly tokenizer = {
    encode(text: string) {
      const kept = this.standsFor(text);
      return Int32Array.from(Buffer.from(kept));
    },
    standsFor: (text: string) => text.toLowerCase().replace(/[^a-z ]/g, ""),
  };
}

test("evaluate: what the tokenizer leaves out makes no text cheaper", async (t) => {
  const line = "the cat sat on the mat ".repeat(20);
  const [plain, longer] = [await file(line), await file(line + "\u4e2d\u6587".repeat(300))];
  const expected = await evaluate(new LetterModel(), plain, { draws: 2 });
  const found = await evaluate(new LetterModel(), longer, { draws: 2 });
  t.true(Math.abs(found.bitsPerByte - expected.bitsPerByte) < 0.01 && found.bitsPerByte > 0.99);
  t.true(Math.abs(found.bitsPerCharacter - expected.bitsPerCharacter) < 0.01);
  t.is(found.characters, line.length);
  t.deepEqual([expected.isAltered, found.isAltered], [false, true]);
});

test("evaluate: progress is of the bytes that were read", async (t) => {
  const path = await file(`ab${"\u4e2d".repeat(100)}`);
  let bytes = 0;
  await evaluate(new LetterModel(), path, { draws: 1, onProgress: (progress) => (bytes = progress.bytes) });
  t.is(bytes, 302);
});

test("score: a text of which the tokenizer keeps nothing is refused by name, as is such a context", async (t) => {
  const message = (name: string) => new RegExp(`^${name}: the tokenizer keeps nothing of "\u4e2d"`);
  const attempt = { code: "ERR_INVALID_ARGUMENT" };
  await t.throwsAsync(score(new LetterModel(), "\u4e2d"), { ...attempt, message: message("text") });
  await t.throwsAsync(score(new LetterModel(), "a", { context: "\u4e2d" }), {
    ...attempt,
    message: message("context"),
  });
});

test("evaluate: a coin costs one bit per token", async (t) => {
  const model = new CoinModel();
  const text = "é is two bytes".repeat(20);
  const result = await evaluate(model, await file(text), { draws: 2 });
  const bytes = Buffer.byteLength(text);
  t.is(result.tokens, bytes + 1);
  t.true(Math.abs(result.perplexity - 2) < 1e-4);
  t.true(Math.abs(result.bitsPerByte - (bytes + 1) / bytes) < 1e-4);
  t.true(Math.abs(result.bitsPerCharacter - (bytes + 1) / text.length) < 1e-4);
  t.is(result.bytes, bytes);
  t.is(result.characters, text.length);
  t.true(result.standardError < 1e-5);
  t.is(result.sequences, Math.ceil((bytes + 1) / 16));
});

test("evaluate: with a limit, bits per byte still refer to the text that was scored", async (t) => {
  const result = await evaluate(new CoinModel(), await file("x".repeat(1000)), { draws: 1, limit: 5 });
  t.is(result.sequences, 5);
  t.is(result.tokens, 80);
  t.true(Math.abs(result.bitsPerByte - 1) < 0.01);
});

test("evaluate: of continuations, what is after the prefix of every window is scored", async (t) => {
  const result = await evaluate(new CoinModel(), await file("x".repeat(100)), { draws: 2, prefix: 6 });
  t.like(result, { prefix: 6, sequences: 6, tokens: 6 * 10 });
  t.true(Math.abs(result.perplexity - 2) < 1e-4 && Math.abs(result.bitsPerByte - 1) < 0.02);
  t.false("prefix" in (await evaluate(new CoinModel(), await file("x"), { draws: 1 })));
  const refused = async (options: object, expected: object, model: object = {}) =>
    t.throwsAsync(evaluate(Object.assign(new CoinModel(), model), await file("abc"), options), expected);
  for (const prefix of [-1, 1.5, 16, "3"])
    await refused({ prefix }, { code: "ERR_INVALID_ARGUMENT", message: /prefix: expected an integer from 0 to 15/ });
  await refused({ prefix: 6 }, { code: "ERR_INVALID_ARGUMENT", message: /a multiple of 4/ }, { patchSize: 4 });
});

test("score and evaluate: what only thought models know is refused by others", async (t) => {
  const refusal = { code: "ERR_UNSUPPORTED", message: /for thought models/ };
  await t.throwsAsync(score(new CoinModel(), "abc", { think: { steps: 3 } }), refusal);
  await t.throwsAsync(evaluate(new CoinModel(), await file("abc"), { sameNoise: true }), refusal);
  const wrong = evaluate(new CoinModel(), await file("abc"), { sameNoise: 1 as unknown as boolean });
  await t.throwsAsync(wrong, { code: "ERR_INVALID_ARGUMENT", message: /sameNoise/ });
  await t.notThrowsAsync(evaluate(new CoinModel(), await file("abc"), { sameNoise: false }));
});

test("evaluate: progress is told, a signal stops it, and calls stay bounded", async (t) => {
  const model = new CoinModel();
  const seen: number[] = [];
  const controller = new AbortController();
  const reason = new Error("stop");
  const onProgress = ({ sequences }: { sequences: number }) => {
    seen.push(sequences);
    if (sequences === 3) controller.abort(reason);
  };
  const options = { draws: 2, callTokens: 32, onProgress, signal: controller.signal };
  t.is(await t.throwsAsync(evaluate(model, await file("y".repeat(5000)), options)), reason);
  t.deepEqual(seen, [1, 2, 3]);
  t.true(model.calls <= 4);
});

test("evaluate: an empty file, a binary one and a missing one are refused", async (t) => {
  await t.throwsAsync(evaluate(new CoinModel(), await file("")), { code: "ERR_BAD_CORPUS" });
  await t.throwsAsync(evaluate(new CoinModel(), await file("\n\n\n")), { code: "ERR_BAD_CORPUS", message: /no text/ });
  const binary = await file(Uint8Array.from({ length: 999 }, (_, i) => (i * 31) % 256));
  await t.throwsAsync(evaluate(new CoinModel(), binary), { code: "ERR_BAD_CORPUS", message: /not a text file/ });
  await t.throwsAsync(evaluate(new CoinModel(), "/nonexistent/corpus.txt"), { code: "ERR_IO" });
});

test("evaluate: other work goes on meanwhile", async (t) => {
  const model = new CoinModel();
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  const slow = {
    ...model,
    tokenizer: model.tokenizer,
    losses: async (request: LossRequest) => {
      await new Promise((resolve) => setTimeout(resolve, 2));
      return model.losses(request);
    },
  };
  await evaluate(slow, await file("z".repeat(2000)), { draws: 1, callTokens: 32 });
  clearInterval(timer);
  t.true(ticks > 20, `${ticks} ticks`);
});

test("score and evaluate: what is no token id or count is refused, not rounded", async (t) => {
  for (const ids of [[1.5, 2], [Number.NaN, 2], [-1], [2 ** 40], {}, null, new DataView(new ArrayBuffer(4))]) {
    const refused = { code: "ERR_INVALID_ARGUMENT" } as const;
    await t.throwsAsync(score(new CoinModel(), ids as number[]), refused);
    await t.throwsAsync(score(new CoinModel(), "x", { context: ids as number[] }), refused);
  }
  for (const limit of [0, -1, Number.NaN, 1.5]) {
    await t.throwsAsync(evaluate(new CoinModel(), await file("abc"), { limit }), { message: /limit/ });
  }
  await t.throwsAsync(score(new CoinModel(), "x", { draws: 1e9 }), { message: /draws is 1000000000/ });
});
