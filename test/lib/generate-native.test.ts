/** Generation on the real addon: what the toy network cannot show. */

import { join } from "node:path";
import test from "ava";
import { writeCheckpoint } from "../../lib/checkpoint/folder.js";
import { layoutNamed } from "../../lib/checkpoint/registry.js";
import { policies } from "../../lib/decoding/registry.js";
import { createEngine, type Engine } from "../../lib/engine.js";
import { NoemaError } from "../../lib/errors.js";
import type { GenerationResult } from "../../lib/generation.js";
import type { MaskedModel } from "../../lib/masked-model.js";
import { Rng, RngStream } from "../../lib/rng.js";
import { fakeConfig, rejection, tokenizerPath } from "../support/fake-addon.js";
import { sharedFolder } from "./temporary.js";

const config = { ...fakeConfig, hiddenSize: 32, numLayers: 2, numHeads: 2, numKvHeads: 2, intermediateSize: 48 };
const prompts = ["Once upon a time", "One", ""];
const rules = [...policies.map(({ name }) => name), { rule: "conv", form: "ancestral" as const, kernel: 9 }];

let folder: Promise<string> | undefined;

/** Random weights, so that logits differ everywhere. */
async function randomModel(): Promise<string> {
  const target = join(sharedFolder(), "model");
  const rng = new Rng(5n);
  let row = 0;
  const tensors = layoutNamed("llada")
    .tensors(config)
    .map(({ canonical, shape }): [string, Float32Array] => {
      const bits = new Uint32Array(shape.reduce((product, n) => product * n, 1));
      rng.fill(bits, { stream: RngStream.init, row: row++ });
      return [canonical, Float32Array.from(bits, (word) => 0.6 * (word / 2 ** 32 - 0.5))];
    });
  await writeCheckpoint(target, { config, tensors: new Map(tensors), tokenizer: tokenizerPath });
  return target;
}

async function open(threads = 1): Promise<{ engine: Engine; model: MaskedModel }> {
  folder ??= randomModel();
  const engine = await createEngine({ threads });
  return { engine, model: await engine.load(await folder, { family: "masked" }) };
}

const plain = (result: GenerationResult) => ({ ...result, timing: 0, ids: [...result.ids] });

test("the same seed gives the same text: alone, in a batch, with any number of threads, in one crossing or step by step", async (t) => {
  const single = await open(1);
  const several = await open(2);
  for (const decoding of rules) {
    const shared = { maxTokens: 8, decoding };
    const batch = await several.model.generateBatch({ prompts, seed: 40, ...shared });
    for (const [i, prompt] of prompts.entries()) {
      const alone = await single.model.generate({ prompt, seed: 40 + i, ...shared });
      t.deepEqual(plain(alone), plain(batch[i]!), JSON.stringify(decoding));
      const stepwise = await single.model.generate({ prompt, seed: 40 + i, refine: true, ...shared });
      t.deepEqual(plain(stepwise), plain(alone), JSON.stringify(decoding));
    }
  }
  await single.engine[Symbol.asyncDispose]();
  await several.engine[Symbol.asyncDispose]();
});

test("other seeds give other texts", async (t) => {
  const { engine, model } = await open();
  for (const decoding of ["ancestral", "random", { rule: "low-confidence", temperature: 1 }]) {
    const texts = await Promise.all(
      [1, 2, 3].map((seed) => model.generate({ prompt: "One", maxTokens: 12, seed, decoding })),
    );
    t.is(new Set(texts.map(({ text }) => text)).size, 3);
  }
  engine.dispose();
});

test("abort at many moments: the reason, what there is, and a model that goes on working", async (t) => {
  const { engine, model } = await open();
  const whole = await model.generate({ prompt: "One", maxTokens: 40 });
  for (let i = 0; i < 24; i++) {
    const controller = new AbortController();
    const decoding = rules[i % rules.length]!;
    const generation = model.generate({ prompt: "One", maxTokens: 40, decoding, signal: controller.signal });
    const reason = new Error(`at ${i}`);
    setTimeout(() => controller.abort(reason), i * 0.7);
    await generation.then(
      ({ reason: end }) => t.not(end, "abort"),
      (error) => {
        t.is((error as Error).cause, reason);
        t.is((error as { partial: GenerationResult }).partial.reason, "abort");
      },
    );
  }
  t.deepEqual(plain(await model.generate({ prompt: "One", maxTokens: 40 })), plain(whole));
  engine.dispose();
});

test("dispose at many moments of a run", async (t) => {
  for (let i = 0; i < 12; i++) {
    const { engine, model } = await open();
    const decoding = rules[i % rules.length]!;
    const generation = model.generate({ prompt: "One", maxTokens: 40, decoding });
    await new Promise((resolve) => setTimeout(resolve, i));
    (i % 2 === 0 ? model : engine).dispose();
    const end = await generation.then(
      () => "done",
      (error: unknown) => (error as NoemaError).code,
    );
    t.true(end === "done" || end === "ERR_DISPOSED", String(end));
    t.is((await rejection<NoemaError>(model.generate({}))).code, "ERR_DISPOSED");
    await engine[Symbol.asyncDispose]();
  }
});

test("leaving the loop early, many times over", async (t) => {
  const { engine, model } = await open();
  for (let i = 0; i < 12; i++) {
    const generation = model.generate({
      prompt: "One",
      maxTokens: 40,
      decoding: rules[i % rules.length]!,
      refine: i % 2 === 0,
    });
    let seen = 0;
    for await (const _ of generation) if (++seen > i % 4) break;
    await generation.settled;
  }
  t.is(engine.stats().waiting, 0);
  engine.dispose();
});

test("the event loop turns while the engine computes", async (t) => {
  const { engine, model } = await open();
  let longest = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }, 5);
  await model.generateBatch({ prompts: new Array<string>(16).fill("Once"), maxTokens: 50 });
  clearInterval(timer);
  t.true(longest < 500, `${longest} ms without a turn`);
  engine.dispose();
});

test("a full queue answers at once", async (t) => {
  folder ??= randomModel();
  const engine = await createEngine({ threads: 1, queueLimit: 1 });
  const model = await engine.load(await folder, { family: "masked" });
  const runs = Array.from({ length: 12 }, (_, seed) =>
    model.generate({ prompt: "One", maxTokens: 30, seed, decoding: "random" }),
  );
  const ends = await Promise.allSettled(runs);
  const codes = ends.flatMap((end) => (end.status === "rejected" ? [(end.reason as NoemaError).code] : []));
  t.true(codes.length > 0);
  t.deepEqual([...new Set(codes)], ["ERR_QUEUE_FULL"]);
  t.true(codes.length < 12);
  engine.dispose();
});

test("bf16 weights generate too", async (t) => {
  folder ??= randomModel();
  await using engine = await createEngine();
  await using model = await engine.load(await folder, { precision: "bf16", family: "masked" });
  t.is(model.info.precision, "bf16");
  const result = await model.generate({ prompt: "One", maxTokens: 8 });
  t.is(result.reason === "eos" || result.ids.length === 8, true);
  t.true(result instanceof Object && !(result instanceof NoemaError));
});
