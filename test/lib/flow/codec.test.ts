import test from "ava";
import { createEngine, type Engine, type FlowModel } from "../../../lib/index.js";
import { latentNoise } from "../../../lib/normals.js";
import { fixture, trained } from "../training/tiny-run.js";
import { tinyFlow } from "./tiny-flow.js";

let run: Promise<string> | undefined;

async function trainedRun(): Promise<string> {
  const { options } = await fixture(tinyFlow);
  await trained(options);
  return options.run;
}

async function open(threads = 1): Promise<{ engine: Engine; model: FlowModel }> {
  run ??= trainedRun();
  const engine = await createEngine({ threads });
  return { engine, model: await engine.load(await run, { family: "flow" }) };
}

const TEXT = "the cat sat";

test("a text comes back from every level, its latents to the bit, by every way of inverting", async (t) => {
  const { engine, model } = await open();
  const data = await model.encode(TEXT, { level: 0, seed: 3 });
  t.is(data.latents.length, data.positions * data.channels);
  // A codebook this young has tokens so near each other that the encoder's noise confuses some.
  const read = await model.decode({ latents: data.latents, level: 0 });
  t.true(read.ids.filter((id, i) => id === data.ids[i]).length >= 8, read.text);
  for (const level of [0, 1, 2]) {
    const state = await model.encode(TEXT, { level, seed: 3 });
    t.is(state.level, level);
    for (const inversion of ["sequential", "jacobi"] as const) {
      const { ids, text, confidence, latents } = await model.decode({
        ...{ latents: state.latents, level },
        ...(level > 0 && { inversion }),
      });
      t.deepEqual(ids, read.ids, `level ${level}, ${inversion}`);
      t.is(text, read.text);
      t.is(confidence.length, ids.length);
      t.deepEqual(latents, data.latents, `level ${level}, ${inversion}`);
    }
  }
  const inspected = await model.inspect(TEXT, { seed: 3 });
  t.deepEqual((await model.encode(TEXT, { seed: 3 })).latents, inspected.levels[2]!.latents, "base noise by default");
  const other = await model.encode(TEXT, { level: 0, seed: 4 });
  t.notDeepEqual(other.latents, data.latents);
  engine.dispose();
});

test("behind a context: a text comes back, and a prompt's noise is what it was continued by", async (t) => {
  const { engine, model } = await open();
  const context = "abc";
  const plain = await model.encode(TEXT, { seed: 3 });
  const data = await model.encode(TEXT, { level: 0, seed: 3, context });
  t.deepEqual(data.latents, (await model.encode(TEXT, { level: 0, seed: 3 })).latents, "the encoder sees tokens alone");
  for (const level of [1, 2]) {
    const state = await model.encode(TEXT, { level, seed: 3, context });
    t.is(state.positions, TEXT.length);
    t.deepEqual(state.ids, plain.ids, "the text's own tokens");
    if (level === 2) t.notDeepEqual(state.latents, plain.latents, "the flows see the context");
    for (const inversion of ["sequential", "jacobi"] as const) {
      const back = await model.decode({ latents: state.latents, level, context, inversion });
      t.deepEqual(back.latents, data.latents, `level ${level}, ${inversion}`);
      t.deepEqual(back.ids, (await model.decode({ latents: data.latents, level: 0, context })).ids);
    }
  }
  const written = await model.generate({ prompt: context, maxTokens: 12, seed: 5 });
  const noise = latentNoise(5, 12 * model.config.latentSize);
  const decoded = await model.decode({ latents: noise, context });
  t.deepEqual(decoded.ids.slice(0, written.ids.length), written.ids);
  t.notDeepEqual((await model.decode({ latents: noise })).ids, decoded.ids);
  const byIds = await model.encode(TEXT, { seed: 3, context: model.tokenizer!.encode(context) });
  t.deepEqual(byIds, await model.encode(TEXT, { seed: 3, context }));
  t.deepEqual(await model.encode(TEXT, { seed: 3, context: "" }), plain, "nothing is none");
  engine.dispose();
});

test("a context that is none, or that leaves no room, is refused by name", async (t) => {
  const { engine, model } = await open();
  const { latents } = await model.encode(TEXT);
  const tokens = [{ at: 0, token: 7 }];
  const all = (context: unknown) => [
    () => model.encode(TEXT, { context } as never),
    () => model.decode({ latents, context } as never),
    () => model.inspect(TEXT, { context } as never),
    () => model.edit({ text: TEXT, tokens, context } as never),
  ];
  const refusals: [unknown, string, RegExp][] = [
    [5, "ERR_INVALID_ARGUMENT", /^context: expected a string or a list of token ids, got 5/],
    [[1, 99], "ERR_INVALID_ARGUMENT", /^context\[1\]: expected an integer from 0 to 98, got 99/],
    ["x".repeat(24), "ERR_PROMPT_TOO_LONG", /^the context has 24 tokens, expected 0 .. 23, for a text is to follow/],
    [" ".repeat(1e7), "ERR_PROMPT_TOO_LONG", /^context takes at least/],
  ];
  for (const [context, code, message] of refusals)
    for (const call of all(context)) await t.throwsAsync(call(), { code: code as "ERR_INTERNAL", message });
  const long = "x".repeat(20);
  await t.throwsAsync(model.encode(TEXT, { context: long }), {
    code: "ERR_PROMPT_TOO_LONG",
    message: "the text has 11 tokens, expected 1 .. 4 after 20 of context",
  });
  await t.throwsAsync(model.decode({ latents, context: long }), { message: /latents: expected 1 .. 4 positions/ });
  engine.dispose();
});

test("a model without prefix conditioning takes no context", async (t) => {
  const { options } = await fixture({
    ...tinyFlow,
    flow: { ...tinyFlow.flow!, prefixConditioning: false },
    ...{ steps: 1, heldOut: [], evaluateEvery: 0 },
  });
  await trained(options);
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(options.run, { family: "flow" });
  await t.throwsAsync(model.encode(TEXT, { context: "abc" }), {
    code: "ERR_UNSUPPORTED",
    message: /without prefix conditioning/,
  });
  t.is((await model.encode(TEXT, { context: "" })).positions, TEXT.length);
});

test("how far latents lie from the token that they read as, where the confidence says nothing of it", async (t) => {
  const { engine, model } = await open();
  const { d } = { d: model.config.latentSize };
  const { latents, ids } = await model.encode(TEXT, { level: 0, seed: 3 });
  const noise = latentNoise(3, ids.length * d);
  const near = await model.decode({ latents, level: 0 });
  for (const [at, token] of near.ids.entries()) {
    if (token !== ids[at]) continue;
    const expected = Math.hypot(...noise.subarray(at * d, (at + 1) * d));
    t.true(Math.abs(near.distance[at]! - expected) < 1e-3, `${near.distance[at]} ${expected}`);
  }
  const far = await model.decode({ latents: latents.map((z, i) => (i < d ? z + 100 : z)), level: 0 });
  t.true(far.confidence[0]! > 0.99 && far.distance[0]! > 100, `${far.confidence[0]} ${far.distance[0]}`);
  t.deepEqual(far.distance.slice(1), near.distance.slice(1));
  const u = (await model.encode(TEXT, { seed: 3 })).latents;
  const above = await model.decode({ latents: u });
  t.deepEqual(above.distance, near.distance);
  const [data, ...others] = (await model.inspect(TEXT, { seed: 3 })).levels;
  t.deepEqual(data!.reading!.distance, near.distance);
  t.true(others.every(({ reading }) => reading?.distance === undefined));
  engine.dispose();
});

test("what is no state is refused by name", async (t) => {
  const { engine, model } = await open();
  const { latents } = await model.encode(TEXT);
  const refused = (options: object, message: RegExp) =>
    t.throwsAsync(model.decode({ latents, ...options }), { code: "ERR_INVALID_ARGUMENT", message });
  await refused({ level: 3 }, /level: expected an integer from 0 to 2, got 3/);
  await refused({ latents: [] }, /latents: expected 1 .. 24 positions/);
  await refused({ latents: latents.subarray(1) }, /latents: expected 1 .. 24 positions/);
  await refused({ latents: latents.map((x, i) => (i === 5 ? Number.NaN : x)) }, /finite numbers/);
  await refused({ latents: "noise" }, /latents: expected/);
  await refused({ inversion: "auto" }, /inversion: expected "sequential", "jacobi"/);
  await refused({ inversion: "jacobi", level: 0 }, /inversion: expected none at level 0/);
  await refused({ signal: 5 }, /signal/);
  await t.throwsAsync(model.decode({ latents, levle: 1 } as never), { code: "ERR_UNKNOWN_OPTION" });
  await t.throwsAsync(model.encode(TEXT, { level: -1 }), { message: /level: expected an integer from 0 to 2/ });
  await t.throwsAsync(model.encode("x".repeat(25)), { code: "ERR_PROMPT_TOO_LONG" });
  await t.throwsAsync(model.encode(" ".repeat(1e7)), { code: "ERR_PROMPT_TOO_LONG", message: /text takes at least/ });
  const long = { code: "ERR_PROMPT_TOO_LONG", message: /has 20000000 tokens; the model has 24 positions/ };
  const ids = new Float64Array(2e7).fill(-1);
  await t.throwsAsync(model.encode(ids), long);
  await t.throwsAsync(model.inspect(ids), long);
  await t.throwsAsync(model.edit({ text: ids }), long);
  await t.throwsAsync(async () => model.generate({ prompt: ids }), long);
  engine.dispose();
});

test("both end with the signal's reason", async (t) => {
  const { engine, model } = await open();
  const { latents } = await model.encode(TEXT);
  const reason = new Error("enough");
  const signal = AbortSignal.abort(reason);
  t.is(await t.throwsAsync(model.encode(TEXT, { signal })), reason);
  t.is(await t.throwsAsync(model.decode({ latents, signal })), reason);
  engine.dispose();
});
