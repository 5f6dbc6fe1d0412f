import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";
import test from "ava";
import { openCheckpoint } from "../../../lib/checkpoint/folder.js";
import { SafetensorsFile } from "../../../lib/checkpoint/safetensors.js";
import { run as runProgram } from "../../../lib/cli/program.js";
import type { DraftMeasure, ErrorCode, HeldOutMetric, RefineEvent, TrainOptions } from "../../../lib/index.js";
import { createEngine } from "../../../lib/index.js";
import { noema } from "../../support/command.js";
import { fixture, outcomeOf, trained } from "../training/tiny-run.js";
import { tinyFlow } from "./tiny-flow.js";

/** The tiny flow, and a run of its readouts. */
async function runs(name: string, changes: Partial<TrainOptions> = {}) {
  const { options } = await fixture({ ...tinyFlow, steps: 40 });
  await trained(options);
  const { shape: _, tokenizer: __, flow: ___, ...rest } = options;
  const own = { run: `${options.run}-${name}`, init: options.run, readouts: 16, steps: 60, rate: 0.02 };
  return { body: options.run, options: { ...rest, ...own, ...changes } satisfies TrainOptions };
}

let whole: Promise<{ run: string; body: string; bounds: HeldOutMetric[] }> | undefined;

async function trainedReadouts() {
  const { body, options } = await runs("readouts");
  const events = await trained(options);
  return { run: options.run, body, bounds: events.filter((event) => event.type === "held-out") };
}

async function tensor(folder: string, name: string): Promise<Float32Array> {
  const { path, name: stored } = (await openCheckpoint(folder)).tensors.get(name)!;
  await using file = await SafetensorsFile.open(path);
  return file.readFloat32(stored);
}

test("readouts learn, and the flows keep their values", async (t) => {
  whole ??= trainedReadouts();
  const { run, body, bounds } = await whole;
  const [first, last] = [bounds[0]!.readouts!, bounds.at(-1)!.readouts!];
  t.is(last.accuracy.length, 2);
  for (const level of [0, 1]) {
    t.true(Math.abs(first.crossEntropy[level]! - Math.log(99)) < 1, `untrained: ${first.crossEntropy[level]}`);
    t.true(last.crossEntropy[level]! < 0.8 * first.crossEntropy[level]!, `${last.crossEntropy}`);
  }
  t.true(Math.abs(bounds.at(-1)!.bound - (last.crossEntropy[0]! + last.crossEntropy[1]!) / 2) < 1e-5);
  const { tensors } = await openCheckpoint(body);
  for (const name of tensors.keys()) t.deepEqual(await tensor(run, name), await tensor(body, name), name);
  const { config, tensors: all } = await openCheckpoint(run);
  t.is(all.size, tensors.size + 6);
  const wider = { ...(await runs("wider", { steps: 1 })).options, init: run, readouts: 8 };
  await t.throwsAsync(trained(wider), { message: /readouts is 8, but those of init have width 16/ });
  t.deepEqual(
    config.layout === "noema-flow" && config.flows.map(({ readoutHiddenSize }) => readoutHiddenSize),
    [16, 16],
  );
});

test("the checkpoint says how well its states are read, and a run that changes the flows does not", async (t) => {
  whole ??= trainedReadouts();
  const { run, bounds } = await whole;
  const stored = async (folder: string) => {
    const { config } = await openCheckpoint(folder);
    return config.layout === "noema-flow" ? config.flows.map(({ readoutAccuracy }) => readoutAccuracy) : [];
  };
  t.deepEqual(await stored(run), bounds.at(-1)!.readouts!.accuracy);
  const { options } = await runs("unmeasured", { init: run, steps: 1, heldOut: [], evaluateEvery: 0 });
  await trained(options);
  t.deepEqual(await stored(options.run), [undefined, undefined], "nothing was measured");
  const { readouts: _, ...flows } = { ...options, run: `${options.run}-flows` };
  await trained(flows);
  t.deepEqual(await stored(flows.run), [undefined, undefined], "the flows moved");
  t.is((await openCheckpoint(flows.run)).tensors.size, (await openCheckpoint(run)).tensors.size);
});

test("a run of readouts that was stopped goes on to the same bits", async (t) => {
  const [{ options }, cut] = await Promise.all([runs("whole", { steps: 12 }), runs("cut", { steps: 12 })]);
  await trained(options);
  await trained({ ...cut.options, stopAt: 5 }, { threads: 2 });
  await trained(cut.options);
  t.deepEqual(await outcomeOf(cut.options.run), await outcomeOf(options.run));
});

test("generating: drafts come coarse to fine, and a text may be read early", async (t) => {
  whole ??= trainedReadouts();
  const { run } = await whole;
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(run, { family: "flow" });
  const options = { prompt: "abc", maxTokens: 10, seed: 3 };
  const plain = await model.generate(options);
  const drafts: RefineEvent[] = [];
  const generation = model.generate({ ...options, refine: true });
  for await (const event of generation) if (event.type === "refine") drafts.push(event);
  t.deepEqual((await generation).ids, plain.ids, "looking changes nothing");
  t.deepEqual(
    drafts.map(({ level, step }) => [level, step]),
    [
      [2, 0],
      [1, 1],
      [0, 2],
    ],
  );
  t.deepEqual(Array.from(drafts[1]!.mask), [0, 0, 0, ...new Array(10).fill(1)]);
  t.true(drafts[2]!.mask.every((x) => x === 0));
  const [first, second] = model.info.config.flows.map(({ readoutAccuracy }) => readoutAccuracy);
  t.true(first! > 0 && first! < 1 && second! > 0 && second! < 1);
  t.deepEqual(
    drafts.map(({ accuracy }) => accuracy),
    [second, first, undefined],
  );
  t.is(drafts[2]!.text, plain.text);
  t.true(drafts.every(({ confidence }) => confidence.every((p) => p > 0 && p <= 1)));
  const early = await model.generate({ ...options, exit: 1 });
  t.deepEqual(Array.from(early.ids), Array.from(drafts[1]!.ids.subarray(3, 3 + early.ids.length)));
  t.is(early.text, drafts[1]!.text);
  t.is(early.usage.forwards, 10);
  const [batched] = await model.generateBatch({ prompts: ["abc"], maxTokens: 10, seed: 3, exit: 1 });
  t.deepEqual(batched!.ids, early.ids);

  const measures = await model.measureDrafts({ count: 3, positions: 12 });
  t.deepEqual(
    measures.map(({ level }) => level),
    [2, 1, 0],
  );
  t.is(measures[2]!.agreement, 1);

  const { levels } = await model.inspect("abcabc");
  t.is(levels[0]!.reading!.text, "abcabc");
  t.is(levels[0]!.reading!.accuracy, 1);
  t.is(levels[1]!.reading!.ids.length, 6);
  await t.throwsAsync(async () => model.generate({ exit: 2 }), { message: /exit/ });
});

test("measuring drafts: a level agrees as often as its drafts of the same noise read as the text does", async (t) => {
  whole ??= trainedReadouts();
  const { run } = await whole;
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(run, { family: "flow" });
  const drafts: RefineEvent[] = [];
  const written = model.generate({ maxTokens: 20, documentStart: false, seed: 6, refine: true });
  for await (const event of written) if (event.type === "refine") drafts.push(event);
  const text = drafts.at(-1)!.ids;
  t.is(text.length, 20);
  const measures = await model.measureDrafts({ count: 1, positions: 20, seed: 6 });
  for (const [i, { level, ids, confidence }] of drafts.entries()) {
    const same = ids.filter((token, at) => token === text[at]).length;
    const mean = confidence.reduce((sum, p) => sum + p, 0) / 20;
    t.like(measures[i], { level, agreement: same / 20 });
    t.true(Math.abs(measures[i]!.confidence! - mean) < 1e-6, `${measures[i]!.confidence} ${mean}`);
  }
  const [noise, draft] = measures as [DraftMeasure, DraftMeasure];
  t.true(noise.agreement! < 1 && draft.agreement! < 1, "there is something to tell");
  t.is(noise.milliseconds, 0);
  t.true(draft.milliseconds > 0 && measures[2]!.milliseconds > draft.milliseconds, "times are from noise on");
});

test("measuring drafts for the draw that is used: prompt, temperature and ancestral draws", async (t) => {
  whole ??= trainedReadouts();
  const { run } = await whole;
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(run, { family: "flow" });
  for (const draw of [
    { prompt: "abc", temperature: 0.5 },
    { prompt: "abc", documentStart: true },
    { ancestral: true, documentStart: false },
  ]) {
    const seen: number[] = [0, 0, 0];
    for (const seed of [6, 7]) {
      const drafts: RefineEvent[] = [];
      for await (const event of model.generate({ ...draw, maxTokens: 12, seed, refine: true }))
        if (event.type === "refine") drafts.push(event);
      const made = (event: RefineEvent) => event.ids.slice(-12);
      const text = made(drafts.at(-1)!);
      for (const draft of drafts)
        seen[draft.level!]! += made(draft).filter((token, at) => token === text[at]).length / 24;
    }
    const measures = await model.measureDrafts({ ...draw, count: 2, positions: 12, seed: 6 });
    const expected = measures.map(({ level }) => (level === 2 && draw.ancestral ? undefined : seen[level]));
    t.deepEqual(
      measures.map(({ agreement }) => agreement && Math.round(24 * agreement)),
      expected.map((agreement) => agreement && Math.round(24 * agreement)),
      JSON.stringify(draw),
    );
    const shown = await noema(
      ...["bench", run, "--exits", "--runs", "2", "--max-tokens", "12", "--seed", "6", "--json"],
      ...(draw.prompt === undefined ? [] : ["--prompt", draw.prompt]),
      ...(draw.documentStart ? ["--document-start"] : []),
      ...(draw.temperature === undefined ? [] : ["--temperature", String(draw.temperature)]),
      ...(draw.ancestral ? ["--ancestral"] : []),
    );
    t.is(shown.error, "");
    t.deepEqual(
      JSON.parse(shown.out).map(({ agreement }: DraftMeasure) => agreement),
      measures.map(({ agreement }) => agreement),
    );
  }
  const rest = await model.measureDrafts({ count: 1, prompt: "a".repeat(20) });
  t.is(Math.round(4 * rest[1]!.agreement!) / 4, rest[1]!.agreement!, "four positions are left");
  const refused = (options: object, code: ErrorCode, message: RegExp) =>
    t.throwsAsync(model.measureDrafts(options), { code, message });
  await refused({ prompt: "a".repeat(24) }, "ERR_PROMPT_TOO_LONG", /prompt: 24 tokens and 1 new ones/);
  await refused({ prompt: 5 }, "ERR_INVALID_ARGUMENT", /^prompt: /);
  await refused({ temperature: -1 }, "ERR_INVALID_ARGUMENT", /^temperature: /);
  await refused({ ancestral: 1 }, "ERR_INVALID_ARGUMENT", /^ancestral: /);
  await refused({ topP: 0.5 }, "ERR_UNSUPPORTED", /mixture-cdf/);
  await refused({ maxTokens: 5 }, "ERR_UNKNOWN_OPTION", /maxTokens/);
  t.regex((await noema("bench", run, "--exits", "--decoding", "random")).error, /"decoding" is for masked models/);
});

test("what has no readout is refused", async (t) => {
  const { body, options } = await runs("none", { steps: 1 });
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(body, { family: "flow" });
  await t.throwsAsync(async () => model.generate({ exit: 1 }), { code: "ERR_UNSUPPORTED", message: /no readout/ });
  await t.throwsAsync(model.native.read({ level: 2, latents: new Float64Array(8) }), { code: "ERR_UNSUPPORTED" });
  await t.throwsAsync(async () => model.native.read({ level: 0, latents: new Float64Array(7) }), {
    message: /a multiple of 4 values/,
  });
  const { levels } = await model.inspect("abc");
  t.is(levels[1]!.reading, undefined);
  const drafts = await model.measureDrafts({ count: 1, positions: 4 });
  t.is(drafts[0]!.agreement, undefined);
  const { init: _, ...fresh } = options;
  await t.throwsAsync(trained({ ...fresh, ...tinyFlow, tokenizer: `${body}/tokenizer.json` } as TrainOptions), {
    message: /readouts is 16/,
  });
  await t.throwsAsync(trained({ ...options, stage: 1 }), { message: /stage is 1.*readouts train no flow/ });
  const flows = tinyFlow.flow!.flows.map((stage) => ({ ...stage, readoutHiddenSize: 8 }));
  const { readouts: _readouts, ...none } = fresh;
  const untrained = { ...none, ...tinyFlow, tokenizer: `${body}/tokenizer.json` };
  await t.throwsAsync(trained({ ...untrained, flow: { ...tinyFlow.flow!, flows } } as TrainOptions), {
    message: /without "readoutHiddenSize"/,
  });
});

test("on a terminal every draft is seen, with its state and what such a state is worth", async (t) => {
  whole ??= trainedReadouts();
  const { run } = await whole;
  const out = Object.assign(new PassThrough(), { isTTY: true, columns: 60, rows: 20 });
  const printed = text(out);
  const code = await runProgram(["generate", run, "--prompt", "ab", "--max-tokens", "6"], {
    out,
    error: new PassThrough().resume(),
  });
  out.end();
  t.is(code, 0);
  const states = (await printed).match(/state \d of \d, reads \d+ % right/g)!;
  t.deepEqual(
    states.map((state) => state.slice(0, 12)),
    ["state 2 of 2", "state 1 of 2"],
  );
});

test("on the command line: the recipe of readouts, and drafts as JSON", async (t) => {
  whole ??= trainedReadouts();
  const { run } = await whole;
  const { code, out, error } = await noema(
    "generate",
    run,
    "--prompt",
    "ab",
    "--max-tokens",
    "6",
    "--json",
    "--refine",
  );
  t.is(error, "");
  t.is(code, 0);
  const events = out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  t.deepEqual(
    events.filter(({ type }) => type === "refine").map(({ level }) => level),
    [2, 1, 0],
  );
  const shown = async (...flags: string[]) => {
    const options = ["--prompt", "ab", "--max-tokens", "6", "--seed", "3", ...flags];
    return (await noema("generate", run, ...options)).out;
  };
  const text = await shown();
  const named = /^state 2 of 2, reads \d+ % right: ab.*\nstate 1 of 2, reads \d+ % right: ab.*\n/;
  t.regex(await shown("--refine"), named);
  t.is((await shown("--refine")).replace(named, ""), text);
  t.regex(await shown("--refine", "--exit", "1"), named, "what is read early is told of like what is passed by");
  const measures = JSON.parse((await noema("bench", run, "--exits", "--runs", "2", "--max-tokens", "6", "--json")).out);
  t.deepEqual(
    measures.map(({ level }: { level: number }) => level),
    [2, 1, 0],
  );
  t.regex((await noema("bench", run, "--exits", "--runs", "2")).out, /^state +agrees[^\n]+\n2 +[\d.]+ %/);
});
