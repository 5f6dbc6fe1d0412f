import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import test from "ava";
import { fromBf16, toBf16 } from "../../../lib/checkpoint/dtype.js";
import { openCheckpoint } from "../../../lib/checkpoint/folder.js";
import { SafetensorsFile } from "../../../lib/checkpoint/safetensors.js";
import type { TrainOptions } from "../../../lib/training/options.js";
import { persistently } from "../../../lib/training/persist.js";
import { loadState } from "../../../lib/training/state.js";
import { train } from "../../../lib/training/train.js";
import { FakeEngine } from "./fake.js";
import { collect, type Fixture, fixture, outcome } from "./tiny-run.js";

async function tensorNames(run: string) {
  return [...(await openCheckpoint(run)).tensors].map(([name, { shape }]) => ({ name, shape }));
}

async function result(run: string) {
  return outcome(run, await tensorNames(run));
}

/** A run of ten steps that nothing interrupted. */
async function unbroken(options: Partial<TrainOptions> = {}) {
  const { options: complete } = await fixture(options);
  await collect(complete);
  return result(complete.run);
}

test("events, in order; metrics, curve and a checkpoint that loads", async (t) => {
  const engine = new FakeEngine();
  const { options } = await fixture();
  const events = await collect(options, engine);
  const types = events.map(({ type }) => type);
  t.is(types[0], "start");
  t.is(types.at(-1), "finish");
  t.is(types.filter((type) => type === "step").length, 10);
  t.deepEqual(
    events.flatMap((event) => (event.type === "held-out" ? [event.step] : [])),
    [0, 2, 4, 6, 8, 10],
  );
  t.deepEqual(
    events.flatMap((event) => (event.type === "save" ? [event.step] : [])),
    [3, 6, 9, 10],
  );
  for (const event of events) {
    if (event.type !== "step") continue;
    t.true(event.loss > 0 && event.gradientNorm > 0 && event.tokensPerSecond > 0 && event.eta >= 0);
  }
  t.like(events.at(-1), { reason: "complete", step: 10 });
  const names = [
    "config.json",
    "curve.svg",
    "metrics.jsonl",
    "model.safetensors",
    "recipe.json",
    "state",
    "tokenizer.json",
  ];
  t.deepEqual((await readdir(options.run)).sort(), names);
  t.is(engine.live, 0);
  t.true(engine.trainers.every(({ disposed }) => disposed));
});

test("the checkpoint is the average of the weights, in bf16", async (t) => {
  const engine = new FakeEngine();
  const { options } = await fixture();
  await collect(options, engine);
  const { tensors, tokenizer } = await openCheckpoint(options.run);
  t.truthy(tokenizer);
  for (const [name, { path, name: stored, dtype }] of tensors) {
    await using file = await SafetensorsFile.open(path);
    t.is(dtype, "BF16");
    t.deepEqual(await file.readFloat32(stored), fromBf16(toBf16(engine.trainers[0]!.buffers.average.get(name)!)));
  }
});

test("5 steps and 5 resumed ones are the 10 of an unbroken run, bit for bit", async (t) => {
  const { options } = await fixture();
  const first = await collect({ ...options, stopAt: 5 });
  t.like(first.at(-1), { type: "finish", reason: "stopped", step: 5 });
  const second = await collect(options);
  t.like(second[0], { type: "start", step: 5 });
  t.deepEqual(await result(options.run), await unbroken());
});

test("without an average too", async (t) => {
  const { options } = await fixture({ ema: 0 });
  await collect({ ...options, stopAt: 5 });
  await collect(options);
  t.false((await readdir(join(options.run, "state"))).includes("average.safetensors"));
  const { options: whole } = await fixture({ ema: 0 });
  await collect(whole);
  const weights = async (run: string) => readFile(join(run, "state", "parameter.safetensors"));
  t.deepEqual(await weights(options.run), await weights(whole.run));
});

test("aborted at any step: saved, rejected with the reason, and resumed to the same bits", async (t) => {
  const expected = await unbroken();
  const abortAt = async (step: number) => {
    const { options } = await fixture();
    const controller = new AbortController();
    const reason = new Error(`enough at ${step}`);
    const running = async () => {
      for await (const event of train({ native: new FakeEngine() }, { ...options, signal: controller.signal }))
        if (event.type === "step" && event.step === step) controller.abort(reason);
    };
    t.is(await t.throwsAsync(running()), reason);
    t.is((await loadState(options.run))?.step, step);
    await collect(options);
    t.deepEqual(await result(options.run), expected, `aborted at ${step}`);
  };
  await Promise.all([1, 2, 3, 4, 7, 9, 10].map(abortAt));
});

test("aborted in the middle of an evaluation: saved, and the evaluation is made up for", async (t) => {
  // 15 windows of 8 tokens, 64 draws: two native calls.
  const long = { evaluateDraws: 64, evaluateSequences: 15 };
  const { options } = await fixture(long);
  const controller = new AbortController();
  const engine = new FakeEngine();
  engine.onLosses = (steps) => {
    if (steps === 4) controller.abort(new Error("enough"));
  };
  await t.throwsAsync(collect({ ...options, signal: controller.signal }, engine), { message: "enough" });
  t.is((await loadState(options.run))?.step, 4);
  t.is(engine.live, 0);
  await collect(options);
  t.deepEqual(await result(options.run), await unbroken(long));
});

test("a state that holds a NaN is neither written nor read", async (t) => {
  const { options } = await fixture({ saveEvery: 1 });
  const engine = new FakeEngine();
  const poison = async () => {
    for await (const event of train({ native: engine }, options))
      if (event.type === "step" && event.step === 3) engine.trainers[0]!.buffers.v.get("embed.weight")![5] = Number.NaN;
  };
  await t.throwsAsync(poison(), { code: "ERR_NON_FINITE", message: /step 3: v of tensor "embed\.weight"/ });
  t.is((await loadState(options.run))?.step, 2);
  const path = join(options.run, "state", "m.safetensors");
  const bytes = await readFile(path);
  bytes.writeUInt32LE(0x7f800000, bytes.length - 4);
  await writeFile(path, bytes);
  await t.throwsAsync(collect(options), { code: "ERR_BAD_STATE", message: /m\.safetensors: tensor ".*" holds a NaN/ });
});

test("aborted before it began: nothing happens", async (t) => {
  const { options, folder } = await fixture();
  const reason = new Error("never mind");
  t.is(await t.throwsAsync(collect({ ...options, signal: AbortSignal.abort(reason) })), reason);
  t.false((await readdir(folder)).includes("run"));
});

test("leaving the loop saves; the training is over then", async (t) => {
  const engine = new FakeEngine();
  const { options } = await fixture();
  const training = train({ native: engine }, options);
  for await (const event of training) if (event.type === "step" && event.step === 4) break;
  t.is((await loadState(options.run))?.step, 4);
  t.is(engine.live, 0);
  await t.throwsAsync(training[Symbol.asyncIterator]().next(), { code: "ERR_DISPOSED" });
  await collect(options);
  t.deepEqual(await result(options.run), await unbroken());
});

test("a loss that is not finite: the step is named and the last good state stays", async (t) => {
  const engine = new FakeEngine();
  engine.poisonedStep = 8;
  const { options } = await fixture();
  await t.throwsAsync(collect(options, engine), {
    code: "ERR_NON_FINITE",
    message: /^step 8: .*the state of step 6 is kept/,
  });
  t.is((await loadState(options.run))?.step, 6);
  t.is(engine.live, 0);
  await collect(options);
  t.deepEqual(await result(options.run), await unbroken());
});

test("a full disk while saving: ERR_IO, the state on disk stays, nothing in memory is lost", async (t) => {
  const engine = new FakeEngine();
  const { options } = await fixture();
  await using training = train({ native: engine }, options);
  const steps: number[] = [];
  const iterate = async () => {
    for await (const event of training) {
      if (event.type !== "step") continue;
      steps.push(event.step);
      if (event.step === 4) engine.trainers[0]!.full = true;
    }
  };
  await t.throwsAsync(iterate(), { code: "ERR_IO", message: /no space left/ });
  t.is((await loadState(options.run))?.step, 3);
  await t.throwsAsync(iterate(), { code: "ERR_IO" });
  engine.trainers[0]!.full = false;
  await iterate();
  t.deepEqual(steps, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  t.deepEqual(await result(options.run), await unbroken());
  t.is(engine.live, 0);
});

test("persistently: waits for room on the disk, then goes on; gives up after so many attempts", async (t) => {
  const patient = async (roomAfter: number, attempts: number) => {
    const engine = new FakeEngine();
    const { options } = await fixture();
    const waits: number[] = [];
    const onWait = (_: Error, attempt: number) => {
      waits.push(attempt);
      if (attempt === roomAfter) engine.trainers[0]!.full = false;
    };
    await using training = train({ native: engine }, options);
    const iterate = async () => {
      for await (const event of persistently(training, { wait: 0.001, attempts, onWait }))
        if (event.type === "step" && event.step === 4) engine.trainers[0]!.full = true;
    };
    return { options, waits, done: iterate() };
  };
  const made = await patient(2, 5);
  await made.done;
  t.deepEqual(made.waits, [1, 2]);
  t.deepEqual(await result(made.options.run), await unbroken());
  const hopeless = await patient(99, 3);
  await t.throwsAsync(hopeless.done, { code: "ERR_IO" });
  t.deepEqual(hopeless.waits, [1, 2]);
  t.is((await loadState(hopeless.options.run))?.step, 3);
});

test("a refused continuation leaves the recipe as it was", async (t) => {
  const { options } = await fixture({ stopAt: 1 });
  await collect(options);
  const recipe = await readFile(join(options.run, "recipe.json"), "utf8");
  await t.throwsAsync(collect({ ...options, rate: 0.5 }), { code: "ERR_BAD_STATE" });
  t.is(await readFile(join(options.run, "recipe.json"), "utf8"), recipe);
});

test("killed again and again: what remains is a whole state, and the end is the same", async (t) => {
  const { options } = await fixture({ saveEvery: 1 });
  const script = fileURLToPath(new URL("./train-slowly.ts", import.meta.url));
  for (const step of [2, 5, 8]) {
    const child = spawn(process.execPath, ["--import=tsx", script, JSON.stringify(options)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    child.stdout.setEncoding("utf8");
    child.stdout.on("data", (text: string) => {
      // A random moment after this step: in the middle of a save, as often as not.
      if (text.includes(`step ${step}\n`)) setTimeout(() => child.kill("SIGKILL"), 15 * (step % 3));
    });
    await once(child, "exit");
    t.true(((await loadState(options.run))?.step ?? 0) >= step - 1);
  }
  await collect(options);
  const expected = await unbroken();
  t.deepEqual((await result(options.run)).tensors, expected.tensors);
  t.deepEqual((await result(options.run)).metrics, expected.metrics);
});

test("contradicting options are named; allowed changes pass", async (t) => {
  const { options, folder } = await fixture({ stopAt: 2 });
  await collect(options);
  const again = (more: Partial<TrainOptions>) => collect({ ...options, ...more });
  const refused = (more: Partial<TrainOptions>, message: RegExp) =>
    t.throwsAsync(again(more), { code: "ERR_BAD_STATE", message });
  await refused({ rate: 0.5 }, /rate 0\.02, but 0\.5/);
  await refused({ batch: 4 }, /batch 3, but 4/);
  await refused({ seed: 4 }, /seed 0, but 4/);
  await refused({ shape: { hidden: 16, heads: 2, layers: 1 } }, /hiddenSize 8, but 16/);
  await refused({ corpus: [join(folder, "a.txt")] }, /corpus/);
  t.is((await again({ rate: 0.5, changes: ["rate"], stopAt: 3 })).at(-1)?.type, "finish");
  t.is((await again({ rate: 0.5, saveEvery: 1, evaluateEvery: 0, stopAt: 4 })).at(-1)?.type, "finish");
});

test("a finished run, run again, only writes its checkpoint", async (t) => {
  const { options } = await fixture();
  await collect(options);
  const before = await readFile(join(options.run, "model.safetensors"));
  await writeFile(join(options.run, "model.safetensors"), "stale");
  const events = await collect(options);
  t.deepEqual(
    events.map(({ type }) => type),
    ["start", "finish"],
  );
  t.deepEqual(await readFile(join(options.run, "model.safetensors")), before);
});

test("a run from a checkpoint begins with its weights", async (t) => {
  const { options, folder } = await fixture();
  await collect(options);
  const engine = new FakeEngine();
  const { shape: _, tokenizer: __, ...rest } = options;
  const events = await collect({ ...rest, run: join(folder, "tuned"), init: options.run, steps: 2 }, engine);
  const [base, tuned] = [await collectHeldOut(options.run), events.find(({ type }) => type === "held-out")];
  t.true(Math.abs((tuned as { bound: number }).bound - base) < 0.02, "the start is where the other run ended");
});

async function collectHeldOut(run: string): Promise<number> {
  const lines = (await readFile(join(run, "metrics.jsonl"), "utf8")).trim().split("\n");
  const last = lines.map((line) => JSON.parse(line)).findLast(({ type }) => type === "held-out");
  return last.bound;
}

const refusals: [string, (made: Fixture) => Promise<Partial<TrainOptions>> | Partial<TrainOptions>, string, RegExp][] =
  [
    ["an empty corpus", async ({ folder }) => ({ corpus: [await put(folder, "")] }), "ERR_BAD_CORPUS", /empty/],
    [
      "a binary corpus",
      async ({ folder }) => ({
        corpus: [
          await put(
            folder,
            Uint8Array.from({ length: 4000 }, (_, i) => (i * 37) % 256),
          ),
        ],
      }),
      "ERR_BAD_CORPUS",
      /not a text file/,
    ],
    [
      "a corpus shorter than a window",
      async ({ folder }) => ({ corpus: [await put(folder, "abc")] }),
      "ERR_BAD_CORPUS",
      /too short/,
    ],
    ["a missing corpus", () => ({ corpus: ["/nonexistent/text.txt"] }), "ERR_IO", /nonexistent/],
    ["a missing tokenizer", () => ({ tokenizer: "/nonexistent/tokenizer.json" }), "ERR_IO", /nonexistent/],
    ["an unknown option", () => ({ wramup: 3 }) as object, "ERR_UNKNOWN_OPTION", /did you mean "warmup"/],
    ["held-out text that is no list", () => ({ heldOut: "a.txt" }) as object, "ERR_INVALID_ARGUMENT", /heldOut/],
    ["a corpus that is no path", () => ({ corpus: [5] }) as object, "ERR_INVALID_ARGUMENT", /corpus\[0\]/],
    ["a weight that is none", () => ({ corpus: [{ path: "a", weight: -1 }] }), "ERR_INVALID_ARGUMENT", /corpus\[0\]/],
    ["a shape that is none", () => ({ shape: [] }) as object, "ERR_INVALID_ARGUMENT", /shape/],
    ["a sample prompt that is too long", () => ({ samplePrompts: ["a".repeat(999)] }), "ERR_PROMPT_TOO_LONG", /999/],
    ["a folder under a file", ({ folder }) => ({ run: join(folder, "a.txt", "run") }), "ERR_IO", /a\.txt/],
    ["no mask token", async ({ folder }) => ({ tokenizer: await withoutMask(folder) }), "ERR_BAD_TOKENIZER", /mask/],
  ];

for (const [name, change, code, message] of refusals) {
  test(`${name} is refused`, async (t) => {
    const made = await fixture();
    const engine = new FakeEngine();
    await t.throwsAsync(collect({ ...made.options, ...(await change(made)) }, engine), { code, message });
    t.is(engine.live, 0);
  });
}

test("a tokenizer with more ids than the model has rows is refused", async (t) => {
  const { options, folder } = await fixture({ stopAt: 1 });
  await collect(options);
  const { shape: _, ...rest } = options;
  const json = JSON.parse(await readFile(options.tokenizer!, "utf8"));
  json.model.vocab["extra"] = 99;
  const tokenizer = await put(folder, JSON.stringify(json));
  const tuned = collect({ ...rest, tokenizer, init: options.run, run: join(folder, "tuned") });
  await t.throwsAsync(tuned, { code: "ERR_BAD_TOKENIZER", message: /99/ });
});

test("a folder that a checkpoint cannot be put into is found before the first step", async (t) => {
  const { options } = await fixture();
  await mkdir(join(options.run, "recipe.json"), { recursive: true });
  await t.throwsAsync(collect(options), { code: "ERR_IO", message: /recipe\.json/ });
});

let files = 0;
async function put(folder: string, text: string | Uint8Array): Promise<string> {
  const path = join(folder, `made-${files++}.txt`);
  await writeFile(path, text);
  return path;
}

async function withoutMask(folder: string): Promise<string> {
  const json = await readFile(join(folder, "tokenizer.json"), "utf8");
  return put(folder, json.replaceAll("<|mask|>", "<|other|>"));
}
