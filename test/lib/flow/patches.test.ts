/** Two tokens per position, their channels mixed: every call of a flow's interface, with an end-of-text token to fill patches and without. */

import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { createEngine, type Engine, evaluate, type FlowModel, type RefineEvent } from "../../../lib/index.js";
import { filledAfter, filledBefore } from "../../../lib/patches.js";
import { scratch } from "../training/scratch.js";
import { fixture, trained } from "../training/tiny-run.js";
import { tinyFlow } from "./tiny-flow.js";

/** The tiny run's end-of-text token, and a text of an odd number of tokens. */
const EOS = 0;
const ODD = [37, 38, 39, 37, 38];
const WHOLE = [...ODD, EOS];

/** Folders of a stack with readouts that was trained for a moment, and of the same without its end-of-text token or its mixing. */
async function trainedFolders(): Promise<{ ends: string; endless: string; unmixed: string }> {
  const { options } = await fixture({ ...tinyFlow, flow: { ...tinyFlow.flow!, patchSize: 2, channelMix: true } });
  await trained(options);
  const { shape: _, tokenizer: __, flow: ___, ...rest } = options;
  const ends = `${options.run}-readouts`;
  await trained({ ...rest, run: ends, init: options.run, readouts: 16, steps: 10 });
  const config = JSON.parse(await readFile(join(ends, "config.json"), "utf8"));
  const { eos_token_id, channel_mix } = config;
  if (eos_token_id !== EOS || channel_mix !== true) throw new Error(`the tiny run has ${eos_token_id}, ${channel_mix}`);
  const changed = async (name: string, changes: object) => {
    const folder = join(await scratch(), name);
    await cp(ends, folder, { recursive: true });
    await writeFile(join(folder, "config.json"), JSON.stringify({ ...config, ...changes }));
    return folder;
  };
  return {
    ends,
    endless: await changed("endless", { eos_token_id: undefined }),
    unmixed: await changed("unmixed", { channel_mix: false }),
  };
}

let folders: ReturnType<typeof trainedFolders> | undefined;

async function open(which: "ends" | "endless" | "unmixed"): Promise<{ engine: Engine; model: FlowModel }> {
  folders ??= trainedFolders();
  const folder = (await folders)[which];
  const engine = await createEngine({ threads: 1 });
  return { engine, model: await engine.load(folder, { family: "flow" }) };
}

const isRagged = (what: string, tokens: number) => ({
  code: "ERR_INVALID_ARGUMENT",
  message:
    `${what} has ${tokens} tokens, expected a multiple of P = 2: ` +
    "the model has no end-of-text token to fill patches with",
});

test("gaps are filled with ends of text, in front or at the end, and by nothing else", (t) => {
  const patches = { patchSize: 3, eosTokenId: 9 };
  t.deepEqual(filledBefore([1, 2, 3, 4], patches, "x"), [9, 9, 1, 2, 3, 4]);
  t.deepEqual(filledAfter([1, 2, 3, 4], patches, "x"), Int32Array.of(1, 2, 3, 4, 9, 9));
  for (const filled of [filledBefore, filledAfter]) {
    t.deepEqual(Array.from(filled([1, 2, 3], patches, "x")), [1, 2, 3]);
    t.deepEqual(Array.from(filled([], patches, "x")), []);
    t.deepEqual(Array.from(filled([1, 2], { patchSize: 2 }, "x")), [1, 2]);
    t.throws(() => filled([1, 2, 3], { patchSize: 2 }, "x"), isRagged("x", 3));
  }
});

test("inspect and score: the last patch is filled with ends of text, which are scored with it", async (t) => {
  const { engine, model } = await open("ends");
  const found = await model.inspect(ODD, { seed: 4 });
  t.like(found, { positions: 3, channels: 8 });
  t.deepEqual(found.ids, Int32Array.from(WHOLE));
  t.deepEqual(found, await model.inspect(WHOLE, { seed: 4 }));
  for (const { latents, reading, logDet, level } of found.levels) {
    t.is(latents.length, 24);
    t.is(reading!.ids.length, 6);
    t.is(logDet?.length, level === 0 ? undefined : 3);
  }
  const odd = await model.score(ODD, { draws: 3 });
  t.is(odd.tokens, 5);
  t.is(odd.nats, (await model.score(WHOLE, { draws: 3 })).nats);
  const follows = await model.score(ODD, { context: [41, 42, 43], draws: 2 });
  t.is(follows.nats, (await model.score(WHOLE, { context: [EOS, 41, 42, 43], draws: 2 })).nats);
  t.not(follows.nats, (await model.score(WHOLE, { context: [44, 41, 42, 43], draws: 2 })).nats);
  // As many tokens as the model has room for, and a context whose filling takes some of it.
  const long = new Array<number>(30).fill(40);
  t.like(await model.score(long, { context: [41, 42, 43], draws: 1 }), { tokens: 30, windows: 2 });
  engine.dispose();
});

test("generate, refine and exit: the prompt's gap is in front, and what fills patches is not told", async (t) => {
  const { engine, model } = await open("ends");
  const options = { prompt: [37, 38, 39], maxTokens: 5, seed: 3 };
  const { ids, usage } = await model.generate(options);
  t.deepEqual(usage, { promptTokens: 3, completionTokens: ids.length, forwards: 3 * 2 });
  t.deepEqual((await model.generate({ ...options, prompt: [EOS, 37, 38, 39] })).ids, ids);
  t.deepEqual((await model.generate({ ...options, documentStart: true })).ids, ids, "a document's start fills the gap");
  const longer = await model.generate({ ...options, maxTokens: 6 });
  t.deepEqual(longer.ids.slice(0, 5), ids.slice(0, longer.ids.length));
  const fresh = await model.generate({ maxTokens: 5, seed: 3 });
  t.is(fresh.usage.promptTokens, 1, "a text starts after the end of another");
  t.deepEqual(fresh.ids, (await model.generate({ prompt: [EOS, EOS], maxTokens: 5, seed: 3 })).ids);
  const drafts: RefineEvent[] = [];
  for await (const event of model.generate({ ...options, refine: true }))
    if (event.type === "refine") drafts.push(event);
  t.deepEqual(
    drafts.map(({ level }) => level),
    [2, 1, 0],
  );
  for (const draft of drafts) {
    t.deepEqual(Array.from(draft.ids.subarray(0, 3)), options.prompt);
    t.deepEqual([draft.ids.length, draft.mask.length, draft.confidence.length], [8, 8, 8]);
  }
  t.deepEqual(drafts[2]!.ids.slice(3, 3 + ids.length), ids);
  const early = await model.generate({ ...options, exit: 1 });
  t.deepEqual(early.ids, drafts[1]!.ids.slice(3, 3 + early.ids.length));
  t.is(early.usage.forwards, 3);
  const prompts = [
    [37, 38, 39],
    [37, 38],
    [EOS, 37, 38, 39],
  ];
  const batch = await model.generateBatch({ prompts, maxTokens: 5, seed: 3 });
  t.deepEqual(batch[0]!.ids, ids);
  t.deepEqual(batch[1]!.ids, (await model.generate({ ...options, prompt: [37, 38], seed: 4 })).ids);
  engine.dispose();
});

test("edit: positions are patches, places are tokens, and the filling is no part of the text", async (t) => {
  const { engine, model } = await open("ends");
  const text = Int32Array.from(ODD);
  const { ids, differences, latents } = await model.edit({ text, tokens: [{ at: 4, token: 60 }] });
  t.deepEqual(ids, text.with(4, 60), "the last patch: nothing follows");
  t.deepEqual(differences, [{ at: 4, before: 38, after: 60, asked: true, wanted: 60 }]);
  t.is(latents.length, 24);
  const middle = await model.edit({ text, tokens: [{ at: 3, token: 60 }] });
  t.deepEqual(middle.ids.slice(0, 4), text.with(3, 60).slice(0, 4), "the other token of the patch stays");
  const values = [1, -1, 1, -1, 2, -2, 2, -2];
  const deep = await model.edit({ text, level: 1, latents: [{ position: 2, values }] });
  t.deepEqual(Array.from(deep.latents.subarray(16)), values);
  t.is(deep.ids.length, 5);
  const refused = (changes: object, message: RegExp) => t.throwsAsync(model.edit({ text, ...changes }), { message });
  await refused({ tokens: [{ at: 5, token: 60 }] }, /tokens\[0\]\.at: expected an integer from 0 to 4/);
  await refused({ latents: [{ position: 3, values }] }, /latents\[0\]\.position: expected an integer from 0 to 2/);
  await refused({ latents: [{ position: 0, values: [1, 2, 3, 4] }] }, /8 finite numbers/);
  const both = { tokens: [{ at: 3, token: 60 }], latents: [{ position: 1, values }] };
  await refused(both, /latents\[0\]\.position: expected a position that no other change is of/);
  engine.dispose();
});

test("without an end-of-text token, what is no whole number of patches is refused, by its name", async (t) => {
  const { engine, model } = await open("endless");
  await t.throwsAsync(model.inspect(ODD), isRagged("the text", 5));
  await t.throwsAsync(model.edit({ text: ODD, tokens: [{ at: 0, token: 60 }] }), isRagged("the text", 5));
  await t.throwsAsync(model.score(ODD), isRagged("window 0 of the text", 5));
  await t.throwsAsync(model.score(new Array(25).fill(40)), isRagged("window 1 of the text", 1));
  await t.throwsAsync(model.score(WHOLE, { context: [41, 42, 43] }), isRagged("the context", 3));
  await t.throwsAsync(async () => model.generate({ prompt: [37, 38, 39] }), isRagged("prompt", 3));
  await t.throwsAsync(model.generateBatch({ prompts: [[37, 38], [39]] }), isRagged("prompts[1]", 1));
  await t.throwsAsync(async () => model.generate({ documentStart: true }), {
    code: "ERR_UNSUPPORTED",
    message: /^documentStart: the model has no end-of-text token/,
  });
  t.like(await model.generate({ maxTokens: 3 }), { reason: "length", usage: { promptTokens: 0, completionTokens: 3 } });
  engine.dispose();
});

test("without an end-of-text token, whole patches go through as they do with one", async (t) => {
  const [{ engine, model }, other] = await Promise.all([open("endless"), open("ends")]);
  const same = async (call: (model: FlowModel) => PromiseLike<unknown>) =>
    t.deepEqual(await call(model), await call(other.model));
  await same((m) => m.inspect(WHOLE));
  await same((m) => m.score(WHOLE, { context: [41, 42] }));
  await same((m) => m.edit({ text: WHOLE, tokens: [{ at: 2, token: 60 }], level: 1 }));
  for (const exit of [0, 1]) {
    // An end of text is a token like others here, so the text may go on where the other's is over.
    const options = { prompt: [37, 38], maxTokens: 5, seed: 3, exit };
    const [{ ids }, { ids: ended }] = [await model.generate(options), await other.model.generate(options)];
    t.is(ids.length, 5);
    t.deepEqual(ids.slice(0, ended.length), ended);
  }
  engine.dispose();
  other.engine.dispose();
});

test("mixed channels are part of the model: without it reads other states, and its texts come back all the same", async (t) => {
  const [{ engine, model }, other] = await Promise.all([open("ends"), open("unmixed")]);
  const [mixed, unmixed] = [await model.inspect(WHOLE, { seed: 4 }), await other.model.inspect(WHOLE, { seed: 4 })];
  const stateOf = (found: typeof mixed, level: number) => found.levels.find((one) => one.level === level)!.latents;
  t.deepEqual(stateOf(unmixed, 0), stateOf(mixed, 0));
  const half = 4; // the even channels, then the odd ones
  const order = (i: number) => 8 * Math.floor(i / 8) + ((i % 8) % half) * 2 + Math.floor((i % 8) / half);
  const first = stateOf(unmixed, 1);
  t.deepEqual(
    stateOf(mixed, 1),
    first.map((_, i) => first[order(i)]!),
  );
  t.notDeepEqual(stateOf(unmixed, 2), stateOf(mixed, 2));
  for (const m of [model, other.model]) {
    const { latents, level } = await m.encode(WHOLE, { seed: 4 });
    t.deepEqual(
      (await m.decode({ latents, level })).ids,
      (await m.inspect(WHOLE, { seed: 4 })).levels[0]!.reading!.ids,
    );
  }
  engine.dispose();
  other.engine.dispose();
});

test("evaluate: without an end-of-text token, what is left over is neither scored nor counted", async (t) => {
  const { engine, model } = await open("endless");
  const folder = await scratch();
  const file = async (text: string) => {
    await writeFile(join(folder, `${text.length}.txt`), text);
    return join(folder, `${text.length}.txt`);
  };
  const [odd, even] = [await file("abcabcabcabca"), await file("abcabcabcabc")];
  const result = await evaluate(model, odd, { length: 8, draws: 1 });
  t.like(result, { tokens: 12, sequences: 2, characters: 12, bytes: 12 });
  t.is(result.nats, (await evaluate(model, even, { length: 8, draws: 1 })).nats);
  await t.throwsAsync(evaluate(model, odd, { length: 7 }), { message: /length: expected a multiple of 2/ });
  await t.throwsAsync(evaluate(model, await file("a")), {
    code: "ERR_BAD_CORPUS",
    message: /no window is of 2 tokens/,
  });
  engine.dispose();
});
