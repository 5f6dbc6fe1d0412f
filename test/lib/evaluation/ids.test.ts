import { readFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { checkedInStretches, encodedInStretches } from "../../../lib/evaluation/ids.js";
import { score } from "../../../lib/evaluation/score.js";
import { Tokenizer } from "../../../lib/tokenizer/tokenizer.js";
import { longestHold } from "../../support/event-loop.js";
import { tokenizerPath } from "../../support/fake-addon.js";
import { root } from "../../support/files.js";

const prose = readFile(join(root, "README.md"), "utf8");
const bytes = { encode: (text: string) => Int32Array.from(Buffer.from(text)) };

/** Notes the pieces that it is given, of some length. */
function watched(encode: (text: string) => ArrayLike<number>) {
  const pieces: string[] = [];
  const note = (text: string) => {
    if (text.length > 200) pieces.push(text);
    return encode(text);
  };
  return { pieces, encoder: { encode: note } };
}

test("a long text's ids are those of the whole, whatever it is written in", async (t) => {
  const tokenizer = await Tokenizer.load(tokenizerPath);
  const chinese = "他们说，这只狐狸很聪明。它住在森林里，每天都去河边喝水！";
  const texts = {
    prose: (await prose).repeat(6),
    chinese: chinese.repeat(3000),
    contractions: "they'll say it's Tom's, don't they? ".repeat(4000),
    "blank lines": "word\n\n \n\tother  ".repeat(4000),
    emoji: "🦊🦊, 7 of 🦊! ".repeat(5000),
  };
  for (const [name, text] of Object.entries(texts)) {
    const { pieces, encoder } = watched((piece) => tokenizer.encode(piece));
    t.deepEqual(await encodedInStretches(text, encoder), tokenizer.encode(text), name);
    t.true(pieces.length > 2, name);
    t.true(
      pieces.every(({ length }) => length < 20_000),
      name,
    );
    t.is(pieces.join(""), text, name);
  }
});

test("where a cut would change tokens, there is none", async (t) => {
  const begun = watched((text) => [-1, ...Buffer.from(text)]);
  const text = "some words ".repeat(4000);
  t.is((await encodedInStretches(text, begun.encoder)).length, text.length + 1);
  t.deepEqual(begun.pieces, [text]);
  const endless = watched(bytes.encode);
  const word = `${"x".repeat(50_000)} y`;
  t.is((await encodedInStretches(word, endless.encoder)).length, word.length);
  t.deepEqual(endless.pieces, [word]);
});

test("short texts are one piece; no text has no ids", async (t) => {
  const { pieces, encoder } = watched(bytes.encode);
  await encodedInStretches("some words ".repeat(1000), encoder);
  t.is(pieces.length, 1);
  t.deepEqual(await encodedInStretches("", bytes), new Int32Array(0));
  t.deepEqual(await checkedInStretches([], "text"), new Int32Array(0));
});

test("ids are checked one by one, and named", async (t) => {
  t.deepEqual(await checkedInStretches([3, 2 ** 31 - 1, 0], "text"), Int32Array.of(3, 2 ** 31 - 1, 0));
  for (const bad of [-1, 1.5, 2 ** 31, Number.NaN, "3", null, undefined, 3n]) {
    const ids = [...new Array(70_000).fill(1), bad];
    await t.throwsAsync(async () => checkedInStretches(ids, "text"), {
      message: /^text\[70000\]: expected an integer/,
    });
  }
  await t.throwsAsync(async () => checkedInStretches(3, "context"), { message: /^context: expected/ });
});

/** As slow as tokenising often is; more than one text's worth of it would be noticed. */
const slow = {
  encode: (text: string) => {
    const end = performance.now() + text.length / 1000;
    while (performance.now() < end);
    return bytes.encode(text);
  },
};

test.serial("a long text and long ids do not hold the event loop", async (t) => {
  const text = await longestHold(() => encodedInStretches("some words ".repeat(50_000), slow));
  t.true(text.milliseconds < 250, `${text.milliseconds} ms`);
  const ids = await longestHold(() => checkedInStretches(new Array(3e6).fill(1), "text"));
  t.true(ids.milliseconds < 250, `${ids.milliseconds} ms`);
});

test.serial("a signal ends the tokenising of a long text", async (t) => {
  const reason = new Error("enough");
  const controller = new AbortController();
  setImmediate(() => controller.abort(reason));
  const { pieces, encoder } = watched(slow.encode);
  const model = { maxPositions: 16, maskId: 300, tokenizer: encoder, losses: async () => new Float32Array(0) };
  const text = "some words ".repeat(50_000);
  t.is(await t.throwsAsync(score(model, text, { signal: controller.signal })), reason);
  t.true(pieces.length < 5, `${pieces.length} pieces`);
});
