import test from "ava";
import { differencesOf } from "../../../lib/flow/changes.js";
import { createEngine, type EditOptions } from "../../../lib/index.js";
import { noema } from "../../support/command.js";
import { openTiny } from "./tiny-flow.js";

const TEXT = "abcabcabcabc";
/** The tiny flow's levels, its channels per position, and its tokens. */
const L = 2;
const C = 4;
const V = 99;

/** Rows `from` to `to` of a state. */
const rows = (state: Float64Array, from: number, to: number) => state.slice(from * C, to * C);

test("editing tokens at level 0: what comes before stays, the change is there, and differences are told", async (t) => {
  const { engine, model } = await openTiny();
  const text = model.tokenizer!.encode(TEXT);
  const token = model.tokenizer!.encode("x")[0]!;
  const same = { at: 6, before: text[6]!, after: text[6]!, asked: true, wanted: text[6]! };
  const plain = await model.edit({ text, tokens: [{ at: 6, token: text[6]! }] });
  t.deepEqual(plain.ids, text, "a change that is none changes nothing");
  t.deepEqual(plain.differences, [same]);
  const edited = await model.edit({ text, tokens: [{ at: 6, token }] });
  t.deepEqual(edited.ids.slice(0, 6), text.slice(0, 6));
  t.is(edited.ids[6], token);
  t.deepEqual(edited.differences[0], { ...same, after: token, wanted: token });
  const changed = Array.from(text.keys()).filter((at) => edited.ids[at] !== text[at]);
  t.deepEqual(
    edited.differences.map(({ at }) => at),
    changed,
  );
  t.true(edited.differences.slice(1).every(({ asked, wanted }) => !asked && wanted === undefined));
  const above = await model.edit({ text, tokens: [{ at: 6, token: text[6]! }], level: 1 });
  t.deepEqual(above.ids, text);
  t.deepEqual(above.differences, [same]);
  engine.dispose();
});

test("editing tokens at level 1: the upper flow goes from the end to the start, and so does the change", async (t) => {
  const { engine, model } = await openTiny();
  const text = model.tokenizer!.encode(TEXT);
  const token = model.tokenizer!.encode("x")[0]!;
  const stateOf = async (ids: Int32Array) => (await model.inspect(ids, { seed: 2 })).levels[1]!.latents;
  const before = await stateOf(text);
  const wanted = await stateOf(text.with(6, token));
  const { latents } = await model.edit({ text, tokens: [{ at: 6, token }], level: 1, seed: 2 });
  t.deepEqual(rows(latents, 7, 12), rows(before, 7, 12), "before it in the flow's order");
  t.deepEqual(rows(latents, 6, 7), rows(wanted, 6, 7));
  t.notDeepEqual(rows(wanted, 6, 7), rows(before, 6, 7));
  for (let n = 0; n < 6; n++) t.notDeepEqual(rows(latents, n, n + 1), rows(before, n, n + 1), `follows: ${n}`);

  // Nothing follows the text's start in the upper flow, and nothing before it in the lower: there the token comes.
  const first = await model.edit({ text, tokens: [{ at: 0, token }], level: 1, seed: 2 });
  t.deepEqual(rows(first.latents, 1, 12), rows(before, 1, 12));
  t.is(first.ids[0], token);
  t.like(first.differences[0], { at: 0, asked: true, after: token, wanted: token });
  engine.dispose();
});

test("a token that was asked for and did not come is told of", async (t) => {
  const { engine, model } = await openTiny();
  const text = model.tokenizer!.encode(TEXT);
  let failed = 0;
  for (let token = 10; token < 40; token++) {
    const { ids, differences } = await model.edit({ text, tokens: [{ at: 8, token }], level: 1 });
    t.deepEqual(
      differences.filter(({ asked }) => asked),
      [{ at: 8, before: text[8]!, after: ids[8]!, asked: true, wanted: token }],
    );
    failed += Number(ids[8] !== token);
  }
  t.true(failed > 0, "at this level some tokens do not come");
  engine.dispose();
});

test("on the command line: a token that did not come is told of beside the text", async (t) => {
  const { engine, model, folder } = await openTiny();
  const text = model.tokenizer!.encode(TEXT);
  let missed: string | undefined;
  for (let token = 10; token < 99 && missed === undefined; token++) {
    const { ids } = await model.edit({ text, tokens: [{ at: 2, token }], level: 1 });
    if (ids[2] !== token && /[a-z]/.test(model.tokenizer!.decode([token]))) missed = model.tokenizer!.decode([token]);
  }
  engine.dispose();
  const run = (...flags: string[]) => noema("edit", folder, "--text", TEXT, "--replace", `c=${missed}`, ...flags);
  const above = await run("--level", "1");
  t.is(above.code, 0);
  const told = ({ error }: { error: string }) => error.split("\n").filter((line) => !line.includes("end of text"));
  t.regex(told(above).join("\n"), new RegExp(`^token 2 is ".", not "${missed}": a lower --level holds on to it\n$`));
  const lowest = await run("--level", "0");
  t.is(lowest.out[2], missed);
  t.deepEqual(told(lowest), [""]);
  t.deepEqual(await run(), lowest, "the API's default is the command's");
});

test("editing latents: the rows given are the state's, at every level up to base noise", async (t) => {
  const { engine, model } = await openTiny();
  const text = model.tokenizer!.encode(TEXT);
  const values = [3, -3, 3, -3];
  for (const level of [0, 1, 2]) {
    const { latents } = await model.edit({ text, level, latents: [{ position: 4, values }] });
    t.deepEqual(Array.from(rows(latents, 4, 5)), values, `level ${level}`);
  }
  const { levels } = await model.inspect(text);
  const noise = levels[L]!.latents;
  const own = await model.edit({ text, level: L, latents: [{ position: 4, values: rows(noise, 4, 5) }] });
  t.deepEqual(own.ids, text, "noise replaced by itself");
  t.deepEqual(own.latents, noise);
  // The upper flow goes from the end to the start: what lies after position 4 does not see the change there.
  const { latents, ids, end } = await model.edit({ text, level: L, latents: [{ position: 4, values }] });
  t.deepEqual(rows(latents, 0, 4), rows(noise, 0, 4), "all other noise stays");
  t.deepEqual(rows(latents, 5, 12), rows(noise, 5, 12));
  const request = { ids: text, batch: 1, length: 12, latents, level: L };
  const below = await model.native.invert({ ...request, to: 1 });
  t.deepEqual(rows(below.state, 5, 12), rows(levels[1]!.latents, 5, 12));
  for (let n = 0; n < 5; n++) t.notDeepEqual(rows(below.state, n, n + 1), rows(levels[1]!.latents, n, n + 1));
  t.deepEqual(ids, (await model.native.invert(request)).tokens.slice(0, end));
  engine.dispose();
});

test("an edit by latents is asked for, whether it changes the token or not", async (t) => {
  const { engine, model } = await openTiny();
  const text = model.tokenizer!.encode(TEXT);
  const { levels } = await model.inspect(text);
  for (const level of [0, 1, 2]) {
    const values = rows(levels[level]!.latents, 4, 5);
    const same = await model.edit({ text, level, latents: [{ position: 4, values }] });
    t.deepEqual(same.differences, [{ at: 4, before: text[4]!, after: text[4]!, asked: true }], `level ${level}`);
    const moved = await model.edit({ text, level, latents: [{ position: 4, values: values.map((x) => x + 3) }] });
    const asked = moved.differences.filter((difference) => difference.asked);
    t.deepEqual(asked, [{ at: 4, before: text[4]!, after: moved.ids[4]!, asked: true }], `level ${level}`);
  }
  engine.dispose();
});

test("differences: of patches, all tokens of a position whose latents were asked for", (t) => {
  const [before, after] = [Int32Array.of(1, 2, 3, 4, 5), Int32Array.of(1, 9, 3, 8, 5)];
  const changes = { tokens: [{ at: 0, token: 7 }], latents: [{ position: 1, values: [] }] };
  t.deepEqual(differencesOf(before, after, changes, 2), [
    { at: 0, before: 1, after: 1, asked: true, wanted: 7 },
    { at: 1, before: 2, after: 9, asked: false },
    { at: 2, before: 3, after: 3, asked: true },
    { at: 3, before: 4, after: 8, asked: true },
  ]);
  t.deepEqual(
    differencesOf(before, before, { tokens: [], latents: [{ position: 2, values: [] }] }, 2),
    [{ at: 4, before: 5, after: 5, asked: true }],
    "what fills the last patch is none of the text's",
  );
});

test("a text ends where the edit brings an end of text; its own are no end", async (t) => {
  const { engine, model, folder } = await openTiny();
  const eos = model.config.eosTokenId!;
  const text = model.tokenizer!.encode(TEXT);
  const cut = await model.edit({ text, tokens: [{ at: 6, token: eos }] });
  t.is(cut.end, 6);
  t.is(cut.ids.length, 6);
  t.is(cut.text, model.tokenizer!.decode(cut.ids));
  t.true(cut.differences.some(({ at, after }) => at === 6 && after === eos));
  t.is(cut.latents.length, text.length * C, "the state is whole");
  const two = Int32Array.from([eos, ...text.subarray(0, 5), eos, ...text.subarray(0, 5)]);
  const same = await model.edit({ text: two, tokens: [{ at: 3, token: two[3]! }] });
  t.is(same.end, undefined);
  t.deepEqual(same.ids, two);
  const changed = { text: TEXT, tokens: [{ at: 0, token: text[1]! }], level: 0 };
  const { end, ids, text: left } = await model.edit(changed);
  engine.dispose();
  t.true(end! > 0, "the model goes on to an end of text by itself, here");
  const flags = ["--text", TEXT, "--replace", "a=b", "--level", "0"];
  const told = await noema("edit", folder, ...flags);
  t.is(told.out, `${left}\n`);
  t.is(told.error, `token ${end} is an end of text: the text ends before it\n`);
  const json = JSON.parse((await noema("edit", folder, ...flags, "--json")).out);
  t.like(json, { ids: Array.from(ids), text: left, end });
});

test("behind a context: an edit sees it, and keeps it", async (t) => {
  const { engine, model, folder } = await openTiny();
  const text = model.tokenizer!.encode(TEXT);
  const token = model.tokenizer!.encode("x")[0]!;
  const context = "xyzzy xyzz";
  const inside = await model.inspect(text, { seed: 2, context });
  const outside = await model.inspect(text, { seed: 2 });
  t.deepEqual(inside.ids, text);
  t.is(inside.positions, text.length);
  t.deepEqual(inside.levels[0]!.latents, outside.levels[0]!.latents);
  t.notDeepEqual(inside.levels[1]!.latents, outside.levels[1]!.latents);
  t.deepEqual((await model.encode(text, { seed: 2, context })).latents, inside.levels[2]!.latents);
  const { nats } = await model.score(text, { context, seed: 2, draws: 1 });
  const total = inside.nelbo.reduce((sum, share) => sum + share, 0);
  t.true(Math.abs(total - nats) < 1e-3, `${total} ${nats}: the same meaning as score's`);

  for (const level of [0, 1]) {
    const changes = { tokens: [{ at: 6, token }], level, seed: 2, context };
    const same = await model.edit({ text, ...changes, tokens: [{ at: 6, token: text[6]! }] });
    t.deepEqual(same.ids, text, `level ${level}: a change that is none changes nothing`);
    t.deepEqual(same.latents, inside.levels[level]!.latents);
    const edited = await model.edit({ text, ...changes });
    t.is(edited.latents.length, text.length * C);
    const wanted = (await model.inspect(text.with(6, token), { seed: 2, context })).levels[level]!.latents;
    t.deepEqual(rows(edited.latents, 6, 7), rows(wanted, 6, 7));
    const alone = await model.edit({ text, ...changes, context: "" });
    if (level === 1) t.notDeepEqual(edited.latents, alone.latents, "another context, another state");
  }
  const noise = rows(inside.levels[L]!.latents, 4, 5);
  const own = await model.edit({ text, level: L, seed: 2, context, latents: [{ position: 4, values: noise }] });
  t.deepEqual(own.ids, text, "noise replaced by itself");
  await t.throwsAsync(
    model.edit({ text, context, level: L, latents: [{ position: 3, values: Array(4).fill(1e20) }] }),
    {
      code: "ERR_NON_FINITE",
      message: /position 13[ ,]/,
    },
  );
  engine.dispose();
  const shown = async (...flags: string[]) => {
    const { code, out, error } = await noema(...flags, "--json");
    t.is(code, 0, error);
    return JSON.parse(out);
  };
  const looked = await shown("inspect", folder, "--text", TEXT, "--context", context, "--seed", "2");
  t.deepEqual(looked.levels[2].latents, Array.from(inside.levels[2]!.latents));
  const flags = ["--replace", "a=x", "--level", "1", "--seed", "2"];
  const inFront = await shown("edit", folder, "--text", TEXT, "--context", context, ...flags);
  const { ids } = await editedIn(folder, context, token);
  t.deepEqual(inFront.ids, Array.from(ids));
});

async function editedIn(folder: string, context: string, token: number) {
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(folder, { family: "flow" });
  return await model.edit({ text: TEXT, context, tokens: [{ at: 0, token }], level: 1, seed: 2 });
}

const LIST = "a list of changes";
const refused: [string, object, string][] = [
  ["no changes", {}, "edit: expected changes, in tokens or in latents"],
  ["no list of tokens", { tokens: 5 }, `tokens: expected ${LIST} { at, token }, got 5`],
  ["no token change", { tokens: [null] }, "tokens[0] options: expected an object, got null"],
  ["an unknown name", { tokens: [{ at: 0, token: 7, foo: 1 }] }, 'unknown tokens[0] option "foo"'],
  ["no place", { tokens: [{ at: 0, token: 7 }, { token: 7 }] }, "tokens[1].at: expected an integer from 0 to 11"],
  ["a place outside", { tokens: [{ at: 12, token: 7 }] }, "tokens[0].at: expected an integer from 0 to 11, got 12"],
  ["no token", { tokens: [{ at: 0, token: V }] }, `tokens[0].token: expected an integer from 0 to ${V - 1}, got ${V}`],
  ["a place twice", { tokens: [3, 4].map((token) => ({ at: 1, token })) }, "tokens[1].at: expected a token that no"],
  ["no list of latents", { latents: "x" }, `latents: expected ${LIST} { position, values }`],
  ["no latent change", { latents: [7] }, "latents[0] options: expected an object, got 7"],
  ["a wrong name", { latents: [{ at: 0, values: [] }] }, 'unknown latents[0] option "at"'],
  ["a position outside", { latents: [{ position: -1, values: [1, 1, 1, 1] }] }, "latents[0].position: expected an"],
  ["too few values", { latents: [{ position: 0, values: [1] }] }, "latents[0].values: expected 4 finite numbers"],
  ["no values", { latents: [{ position: 0 }] }, "latents[0].values: expected 4 finite numbers"],
  [
    "NaN",
    { latents: [{ position: 0, values: [1, Number.NaN, 1, 1] }] },
    "latents[0].values: expected 4 finite numbers",
  ],
  [
    "a position that tokens change",
    { tokens: [{ at: 0, token: 7 }], latents: [{ position: 0, values: [1, 1, 1, 1] }] },
    "latents[0].position: expected a position that no other change is of, got 0",
  ],
  ["no signal", { tokens: [{ at: 0, token: 7 }], signal: 5 }, "signal: expected an AbortSignal, got 5"],
  ["no level", { tokens: [{ at: 0, token: 7 }], level: 3 }, "level: expected an integer from 0 to 2, got 3"],
  [
    "tokens of base noise",
    { tokens: [{ at: 0, token: 7 }], level: 2 },
    "level: expected 0 .. 1 with tokens: base noise, level 2, is changed by latents alone, got 2",
  ],
];

test("what is no edit is refused by name", async (t) => {
  const { engine, model } = await openTiny();
  for (const [name, changes, message] of refused) {
    const error = await t.throwsAsync(model.edit({ text: TEXT, ...changes } as EditOptions), undefined, name);
    t.is(error?.name, "NoemaError", name);
    t.true(error?.message.startsWith(message), `${name}: ${error?.message}`);
  }
  await t.throwsAsync(model.edit(undefined as never), { message: /edit options: expected an object/ });
  engine.dispose();
});
