import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { writeSafetensors } from "../../lib/checkpoint/safetensors.js";
import type { EngineOptions, LoadOptions } from "../../lib/engine.js";
import { checkEngine, engineOn } from "../../lib/engine.js";
import { NoemaError } from "../../lib/errors.js";
import type { GenerationResult } from "../../lib/generation.js";
import { verify as verifyFolder } from "../../lib/verification/verify.js";
import { verify } from "../../lib/verify.js";
import { fakeAddon, fakeConfig, fakeFolder, fakeModelOn, rejection, writeFake } from "../support/fake-addon.js";
import { sharedFolder } from "./temporary.js";

const isDisposed = { instanceOf: NoemaError, code: "ERR_DISPOSED" } as const;

test("engine options: defaults, refusals", (t) => {
  t.like(checkEngine({}), { backend: "auto", threads: 0 });
  const refuse = (options: unknown, code: string, message: RegExp): void => {
    t.throws(() => checkEngine(options as EngineOptions), { instanceOf: NoemaError, code, message });
  };
  refuse({ device: "gpu" }, "ERR_UNKNOWN_OPTION", /device "gpu"/);
  refuse({ device: 3 }, "ERR_INVALID_ARGUMENT", /device/);
  refuse({ backend: "referense" }, "ERR_UNKNOWN_OPTION", /did you mean "reference"/);
  refuse({ thread: 2 }, "ERR_UNKNOWN_OPTION", /did you mean "threads"/);
  refuse({ threads: -1 }, "ERR_INVALID_ARGUMENT", /threads/);
  refuse({ queueLimit: 0 }, "ERR_INVALID_ARGUMENT", /queueLimit/);
});

test.serial("NOEMA_BACKEND and NOEMA_ISA are honoured at creation", async (t) => {
  const { addon } = fakeAddon();
  process.env["NOEMA_BACKEND"] = "reference";
  process.env["NOEMA_ISA"] = "quantum";
  try {
    t.is(checkEngine({}).backend, "reference");
    t.is(checkEngine({ backend: "cpu" }).backend, "cpu");
    const options = { backend: "cpu", threads: 0, queueLimit: 1 } as const;
    await t.throwsAsync(engineOn({ addon }, options), { code: "ERR_UNSUPPORTED" });
    process.env["NOEMA_BACKEND"] = "quick";
    t.throws(() => checkEngine({}), { code: "ERR_UNKNOWN_OPTION" });
  } finally {
    delete process.env["NOEMA_BACKEND"];
    delete process.env["NOEMA_ISA"];
  }
});

async function goldenOfNothing(): Promise<string> {
  const folder = sharedFolder();
  await writeFile(join(folder, "expected.json"), "{}");
  await writeSafetensors(join(folder, "expected.safetensors"), []);
  return folder;
}

test("a backend that does not open: the reason, and nothing is left", async (t) => {
  const { addon, log } = fakeAddon({ unavailable: "no such device" });
  const opening = engineOn({ addon }, { backend: "cuda", threads: 0, queueLimit: 1 });
  await t.throwsAsync(opening, { instanceOf: NoemaError, code: "ERR_DEVICE_UNAVAILABLE", message: "no such device" });
  t.is(log.enginesFreed, 1);
  await t.throwsAsync(verifyFolder(await goldenOfNothing(), { addon }), { code: "ERR_DEVICE_UNAVAILABLE" });
  t.is(log.enginesFreed, 2);
});

test("load: what the model says of itself", async (t) => {
  const { engine, model } = await fakeModelOn();
  t.like(model.info, { family: "masked", layout: "llada", vocabSize: 4096, maxPositions: 64, maskTokenId: 1 });
  t.deepEqual(model.info.config, fakeConfig);
  t.is(engine.device.kind, "cpu");
  t.is(model.tokenizer!.decode(model.tokenizer!.encode("a small text")), "a small text");
});

test("load refuses unknown options, folders and types", async (t) => {
  const { engine } = await fakeModelOn();
  const folder = await fakeFolder();
  const wrong = { precison: "f32" } as LoadOptions;
  await t.throwsAsync(engine.load(folder, wrong), { message: /did you mean "precision"/ });
  await t.throwsAsync(engine.load(folder, { precision: "f16" as "f32" }), { code: "ERR_UNKNOWN_OPTION" });
  await t.throwsAsync(engine.load(join(folder, "nowhere")), { code: "ERR_IO" });
  await t.throwsAsync(engine.load(undefined as unknown as string), { code: "ERR_INVALID_ARGUMENT" });
});

test("estimate: without loading", async (t) => {
  const { engine } = await fakeModelOn();
  const { parameters, weightBytes, fileBytes } = await engine.estimate(await fakeFolder(), { precision: "bf16" });
  t.is(weightBytes, 2 * parameters);
  t.is(fileBytes, 4 * parameters);
});

test("a folder without tokenizer.json: ids only", async (t) => {
  const { engine } = await fakeModelOn();
  const bare = await writeFake({ tokenizer: false });
  const model = await engine.load(bare, { family: "masked" });
  t.is(model.tokenizer, undefined);
  await t.throwsAsync(async () => model.generate({ prompt: "text" }), { code: "ERR_BAD_TOKENIZER" });
  const result = await model.generate({ prompt: [40], maxTokens: 3 });
  t.is(result.ids.length, 3);
  t.is(result.text, "");
});

test("after dispose everything throws ERR_DISPOSED; twice is fine", async (t) => {
  const { engine, model, log } = await fakeModelOn();
  const session = model.session({ ids: [40, null] });
  model.dispose();
  model.dispose();
  t.is(log.modelsFreed, 1);
  t.is(log.openSessions, 0);
  t.throws(() => model.info, isDisposed);
  t.throws(() => model.session({ ids: [40] }), isDisposed);
  t.throws(() => session.canvas(), isDisposed);
  await t.throwsAsync(async () => model.generate({}), isDisposed);
  await t.throwsAsync(async () => model.infill({ text: "x" }), isDisposed);
  await t.throwsAsync(model.generateBatch({ prompts: [] }), isDisposed);
  await t.throwsAsync(session.look(), isDisposed);
  engine[Symbol.dispose]();
  t.is(log.enginesFreed, 1);
  await t.throwsAsync(engine.load(await fakeFolder()), isDisposed);
  t.throws(() => engine.stats(), isDisposed);
});

test("an engine takes its models along, and waits for what runs", async (t) => {
  const { engine, model, log } = await fakeModelOn();
  const generation = model.generate({ prompt: "Once", maxTokens: 40 });
  await new Promise((resolve) => setTimeout(resolve, 5));
  await engine[Symbol.asyncDispose]();
  t.deepEqual([log.openSessions, log.modelsFreed, log.enginesFreed], [0, 1, 1]);
  await t.throwsAsync(async () => generation, isDisposed);
  t.throws(() => model.info, isDisposed);
});

test("dispose at any step of a run: ERR_DISPOSED, then all is free", async (t) => {
  for (let step = 0; step < 8; step++) {
    for (const decoding of ["conv", "random"]) {
      let dispose = (): void => {};
      const { engine, model, log } = await fakeModelOn({ onForward: (pass) => void (pass === step && dispose()) });
      dispose = () => model.dispose();
      const generation = model.generate({ prompt: "Once", maxTokens: 8, decoding });
      const error = await rejection<NoemaError & { partial: GenerationResult }>(generation);
      t.is(error.code, "ERR_DISPOSED");
      t.is(error.partial.reason, "abort");
      await model.settled;
      t.deepEqual([log.openSessions, log.modelsFreed], [0, 1]);
      await engine[Symbol.asyncDispose]();
    }
  }
});

test("dispose while loading: the model is freed, the load rejects", async (t) => {
  const { engine, log } = await fakeModelOn();
  const loading = engine.load(await fakeFolder());
  engine.dispose();
  await t.throwsAsync(loading, isDisposed);
  t.true(log.modelsFreed <= 2);
});

test("a full queue refuses what comes next, and nothing that has begun", async (t) => {
  const { model } = await fakeModelOn();
  const options = { prompt: "One", maxTokens: 3 };
  const runs = Array.from({ length: 10 }, () => model.generate(options));
  const ends = await Promise.allSettled(runs);
  t.deepEqual(
    ends.map(({ status }) => status),
    [...new Array<string>(8).fill("fulfilled"), "rejected", "rejected"],
  );
  t.is((await rejection<NoemaError>(runs[9]!)).code, "ERR_QUEUE_FULL");
  await t.notThrowsAsync(async () => model.generate(options));
});

test("using: handles dispose themselves", async (t) => {
  const { engine, log } = await fakeModelOn();
  {
    await using model = await engine.load(await fakeFolder(), { family: "masked" });
    t.is(model.info.family, "masked");
  }
  t.is(log.modelsFreed, 1);
});

test("session: look, decide, take back", async (t) => {
  const { model } = await fakeModelOn();
  using session = model.session({ ids: [40, null, null, 43], seed: 1 });
  const first = await session.look({ entropy: true, margin: true, top: 3 });
  t.deepEqual([...first.positions], [1, 2]);
  t.is(first.topIds!.length, 6);
  t.is(first.topIds![0], first.tokens[0]);
  session.set([1], [first.tokens[0]!]);
  t.deepEqual([...(await session.look()).positions], [2]);
  session.set([1], [null]);
  t.deepEqual([...session.canvas()], [40, 1, 1, 43]);
  t.deepEqual([...(await session.look({ positions: [1] })).tokens], [first.tokens[0]!]);
  t.throws(() => session.set([4], [1]), { message: /positions\[0\]/ });
  t.throws(() => session.set([1], [4096]), { message: /ids\[0\]/ });
  t.throws(() => session.set([1], []), { code: "ERR_INVALID_ARGUMENT" });
  await t.throwsAsync(session.look({ positions: [2, 1] }), { message: /ascending/ });
  await t.throwsAsync(session.look({ margins: true } as object), { message: /did you mean "margin"/ });
  await t.throwsAsync(session.look({ signal: AbortSignal.abort() }), { name: "AbortError", any: true });
  t.throws(() => model.session({ ids: [] }), { code: "ERR_INVALID_ARGUMENT" });
});

test("session: what a refused or failed look was to hand over, the next one does", async (t) => {
  const { model } = await fakeModelOn();
  const look = async (spoil: (session: ReturnType<typeof model.session>) => Promise<unknown>) => {
    using session = model.session({ ids: [40, null, null, 43], seed: 1 });
    session.set([1], [77]);
    await spoil(session).catch(() => undefined);
    session.set([3], [78]);
    return await session.look({ top: 3 });
  };
  const { topIds, topProbabilities } = await look(async () => undefined);
  for (const options of [{ top: 0 }, { signal: AbortSignal.abort() }, { positions: [9] }]) {
    const after = await look((session) => session.look(options));
    t.deepEqual([after.topIds, after.topProbabilities], [topIds, topProbabilities]);
  }
});

test("options that are no object are refused in noema's words", async (t) => {
  const { model } = await fakeModelOn();
  const none = null as unknown as object;
  t.throws(() => model.session(none as { ids: number[] }), { code: "ERR_INVALID_ARGUMENT" });
  await t.throwsAsync(model.score("x", none), { code: "ERR_INVALID_ARGUMENT" });
  await t.throwsAsync(model.session({ ids: [40, null] }).look(none), { code: "ERR_INVALID_ARGUMENT" });
  await t.throwsAsync(verify("x", none), { code: "ERR_INVALID_ARGUMENT" });
});
