import { PassThrough, Readable } from "node:stream";
import { text } from "node:stream/consumers";
import test from "ava";
import colors from "picocolors";
import { columns, LiveRegion, wrap } from "../../lib/cli/live-region.js";
import { Painter } from "../../lib/cli/painter.js";
import { run } from "../../lib/cli/program.js";
import { fakeFolder } from "../support/fake-addon.js";

async function noema(args: string[], input?: string, tty?: { columns: number; rows: number }) {
  const out = Object.assign(new PassThrough(), tty ? { isTTY: true, ...tty } : {});
  const error = new PassThrough();
  const texts = Promise.all([text(out), text(error)]);
  const code = await run(args, { out, error, ...(input === undefined ? {} : { input: Readable.from([input]) }) });
  out.end();
  error.end();
  const [printed, complaints] = await texts;
  return { code, out: printed, error: complaints };
}

test("generate: plain text when the output is no terminal; the same by standard input", async (t) => {
  const folder = await fakeFolder();
  const flags = ["--max-tokens", "6", "--seed", "3", "--decoding", "random", "--tokens-per-step", "2"];
  const first = await noema(["generate", folder, "--prompt", "One", ...flags]);
  t.is(first.code, 0, first.error);
  t.false(first.out.includes("\x1b"));
  const second = await noema(["generate", folder, ...flags], "One\n");
  t.is(second.out, first.out);
});

test("generate --json: events as lines", async (t) => {
  const { out, code } = await noema([
    "generate",
    await fakeFolder(),
    "--prompt",
    "One",
    "--max-tokens",
    "4",
    "--no-stop-at-eos",
    "--json",
    "--refine",
  ]);
  t.is(code, 0);
  const events = out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  t.is(events.filter(({ type }) => type === "refine").length, 4);
  t.is(events.at(-1).type, "finish");
  t.true(Array.isArray(events[0].ids));
});

test("generate --refine off a terminal: every draft as a line, then the text", async (t) => {
  const flags = ["generate", await fakeFolder(), "--prompt", "One", "--max-tokens", "6", "--decoding", "random"];
  const { out, code } = await noema([...flags, "--refine"]);
  t.is(code, 0);
  const lines = out.split("\n").slice(0, -1);
  t.is(lines.length, 7);
  const events = (await noema([...flags, "--refine", "--json"])).out.trim().split("\n");
  const drafts = events.map((line) => JSON.parse(line)).filter(({ type }) => type === "refine");
  t.deepEqual(
    lines.slice(0, 6),
    drafts.map(({ text: draft }) => draft),
  );
  t.is(lines[6], lines[5]);
  t.is(new Set(lines).size, 6);
  t.is((await noema(flags)).out, `${lines[6]}\n`);
});

test("generate on a terminal: paints over itself, and leaves the text", async (t) => {
  const tty = { columns: 40, rows: 12 };
  const { out, error, code } = await noema(
    ["generate", await fakeFolder(), "--prompt", "One", "--max-tokens", "5", "--no-stop-at-eos"],
    undefined,
    tty,
  );
  t.is(code, 0);
  t.true(out.startsWith("\x1b[?25l"));
  t.true(out.endsWith("\n\x1b[?25h"));
  t.regex(error, /5 tokens in 5 passes/);
});

test("generate --infill, and refusals", async (t) => {
  const folder = await fakeFolder();
  const { out, code } = await noema(["generate", folder, "--infill", "The [mask:2] cat"]);
  t.is(code, 0);
  t.true(out.startsWith("The ") && out.endsWith(" cat\n"));
  const refused = async (...args: string[]) => (await noema(["generate", folder, "--prompt", "x", ...args])).error;
  t.regex(await refused("--decoding", "convv"), /did you mean "conv"/);
  t.regex(await refused("--steps", "x"), /no number/);
  t.regex(await refused("--threshold", "0.5"), /"threshold"/);
  t.regex(await refused("--max-tokens", "9999"), /ERR_PROMPT_TOO_LONG/);
});

test("inspect: what the folder holds", async (t) => {
  const folder = await fakeFolder();
  const { out, code } = await noema(["inspect", folder]);
  t.is(code, 0);
  t.regex(out, /layout +llada/);
  t.regex(out, /F32 \[4096, 4\]/);
  const { parameters, tensors } = JSON.parse((await noema(["inspect", folder, "--json"])).out);
  t.is(tensors.length, 11);
  t.true(parameters > 16384);
  t.regex((await noema(["inspect", folder, "--text", "x"])).error, /flow and thought models; this is masked/);
});

test("bench: figures of a model; refusals", async (t) => {
  const { out, code } = await noema(["bench", await fakeFolder(), "--max-tokens", "3", "--runs", "1", "--json"]);
  t.is(code, 0);
  t.is(JSON.parse(out).tokens, 3);
  t.regex((await noema(["bench"])).error, /a checkpoint folder/);
  t.regex((await noema(["bench", await fakeFolder(), "--runs", "0"])).error, /--runs/);
});

const plain = (value: string): string => value;

test("wrapping: words, long words, wide characters, line breaks", (t) => {
  const lines = (value: string, width: number): string[] => wrap([{ text: value, style: plain }], width);
  t.deepEqual(lines("one two three", 8), ["one two ", "three"]);
  t.deepEqual(lines("abcdefghij", 4), ["abcd", "efgh", "ij"]);
  t.deepEqual(lines("日本語", 4), ["日本", "語"]);
  t.deepEqual(lines("a\n\nb", 9), ["a", "", "b"]);
  t.deepEqual(lines("e\u0301e\u0301", 2), ["e\u0301e\u0301"]);
  t.deepEqual(["a", "語", "\u0301", "🙂"].map(columns), [1, 2, 0, 2]);
});

test("wrapping keeps styles to their runs", (t) => {
  const bold = (value: string): string => `<${value}>`;
  t.deepEqual(
    wrap(
      [
        { text: "ab", style: bold },
        { text: "cd", style: plain },
      ],
      3,
    ),
    ["<ab>c", "d"],
  );
});

test("a region taller than the screen shows its end, and moves back over what it painted", async (t) => {
  const out = Object.assign(new PassThrough(), { columns: 10, rows: 4 });
  const printed = text(out);
  const region = new LiveRegion(out);
  region.update(() => [{ text: "1\n2\n3\n4\n5", style: plain }]);
  region.finish([{ text: "1\n2", style: plain }]);
  out.end();
  t.is(await printed, "\x1b[?25l\r\x1b[J3\n4\n5\x1b[2A\r\x1b[J1\n2\n\x1b[?25h");
});

test("a region's stages are painted even where they come at once, and stay; a signal ends the wait", async (t) => {
  const out = Object.assign(new PassThrough(), { columns: 20, rows: 9 });
  const printed = text(out);
  const region = new LiveRegion(out);
  const shown = (value: string) => [{ text: value, style: plain }];
  const started = performance.now();
  await region.stage(shown("one"));
  t.true(performance.now() - started > 400);
  await region.stage(shown("two"), AbortSignal.abort());
  region.update(() => shown("too soon"));
  await region.stage(shown("three"), AbortSignal.abort());
  t.true(performance.now() - started < 900);
  region.finish(shown("end"));
  out.end();
  t.deepEqual((await printed).match(/[a-z]{3,}/g), ["one", "two", "three", "end"]);
});

test("painting a flow's draft: which state it is, and how often such states are read right", (t) => {
  const painter = new Painter((ids) => ids.join("\n"), colors.createColors(false), 1);
  const event = {
    ...{ type: "refine" as const, step: 1, level: 2, ids: Int32Array.of(7, 8, 9), mask: Uint8Array.of(0, 1, 1) },
    confidence: new Float32Array(3),
    text: "8\n9",
  };
  const draft = (accuracy?: number) => painter.draft(accuracy === undefined ? event : { ...event, accuracy });
  const worth = (accuracy?: number) => draft(accuracy).at(-1)!.text;
  t.is(worth(), "\nstate 2 of 3");
  t.is(worth(0.824), "\nstate 2 of 3, reads 82 % right");
  t.is(worth(0.9991), "\nstate 2 of 3, reads 99.9 % right", "not all");
  t.deepEqual(
    draft().map(({ text: shown }) => shown),
    ["7", "8\n9", "\nstate 2 of 3"],
  );
  t.is(painter.line({ ...event, accuracy: 0.5 }), "state 2 of 3, reads 50 % right: 7 8 9");
});

test("painting: given, decided before, fresh, masked", (t) => {
  const painter = new Painter((ids) => ids.join(","), colors.createColors(false), 1);
  const frame = (mask: number[]) =>
    painter.frame({
      type: "refine",
      step: 0,
      ids: Int32Array.of(7, 8, 9),
      text: "8,9",
      mask: Uint8Array.from(mask),
      confidence: new Float32Array(3),
    });
  t.deepEqual(
    frame([0, 0, 1]).map(({ text: shown }) => shown),
    ["7", "8", "▒▒▒ "],
  );
  t.deepEqual(
    frame([0, 0, 0]).map(({ text: shown }) => shown),
    ["7", "8", "9"],
  );
  t.deepEqual(
    painter.final("x").map(({ text: shown }) => shown),
    ["7", "x"],
  );
});
