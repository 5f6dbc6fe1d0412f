import test from "ava";
import { createEngine, type Engine, type FlowModel } from "../../../lib/index.js";
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
