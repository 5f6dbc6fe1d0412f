import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { checkAncestral } from "../../../lib/flow/request.js";
import { createEngine, evaluate, type FlowConfig, type FlowGenerateOptions } from "../../../lib/index.js";
import { noema } from "../../support/command.js";
import { scratch } from "../training/scratch.js";
import { fixture, trained } from "../training/tiny-run.js";
import { openTiny as open, tinyFlow } from "./tiny-flow.js";

test("info, and what another family is told", async (t) => {
  const { engine, model, folder } = await open();
  t.like(model.info, { family: "flow", vocabSize: 99, maxPositions: 24, patchSize: 1, layout: "noema-flow" });
  await t.throwsAsync(engine.load(folder, { family: "masked" }), { code: "ERR_UNSUPPORTED", message: /flow family/ });
  const loaded = await engine.load(folder);
  t.is(loaded.family, "flow");
  engine.dispose();
});

test("a text depends on its seed alone: not on threads, batch or length", async (t) => {
  const [one, two] = await Promise.all([open(1), open(2)]);
  const options = { prompt: "abc", maxTokens: 12, seed: 5 };
  const alone = await one.model.generate(options);
  t.is(alone.usage.promptTokens, 3);
  t.deepEqual((await two.model.generate(options)).ids, alone.ids);
  const batch = await two.model.generateBatch({ prompts: ["xyz", "abc", "a"], maxTokens: 12, seed: 4 });
  t.deepEqual(batch[1]!.ids, alone.ids);
  t.not(batch[0]!.text, batch[1]!.text);
  const other = await one.model.generate({ ...options, seed: 6 });
  t.notDeepEqual(other.ids, alone.ids);
  one.engine.dispose();
  two.engine.dispose();
});

test("every way of inverting gives the same tokens; auto picks one of them", async (t) => {
  const { engine, model } = await open();
  const options = { prompt: "abc", maxTokens: 16, seed: 9 };
  const { ids } = await model.generate(options);
  for (const inversion of ["jacobi", "auto", [{ method: "jacobi", modules: 4 }, { method: "sequential" }]] as const)
    t.deepEqual((await model.generate({ ...options, inversion })).ids, ids, JSON.stringify(inversion));
  const measures = await model.measureInversions({ positions: 16 });
  t.deepEqual([...new Set(measures.map(({ flow }) => flow))], [1, 0]);
  t.true(measures.every(({ sweeps, milliseconds }) => sweeps >= 1 && sweeps <= 16 && milliseconds > 0));
  const unmeasured = (shape: unknown, expected: object) =>
    t.throwsAsync(model.measureInversions(shape as object), expected);
  await unmeasured(null, { code: "ERR_INVALID_ARGUMENT", message: /measureInversions options: expected an object/ });
  await unmeasured({ batches: 2 }, { code: "ERR_UNKNOWN_OPTION", message: /did you mean "batch"/ });
  await unmeasured({ onMeasure: 5 }, { code: "ERR_INVALID_ARGUMENT", message: /onMeasure: expected a function/ });
  await unmeasured({ positions: 25 }, { code: "ERR_INVALID_ARGUMENT", message: /positions: .* to 24/ });
  const refused = (inversion: object | string, message: RegExp) =>
    t.throwsAsync(async () => model.generate({ inversion: inversion as "auto" }), { message });
  await refused("jacobo", /did you mean "jacobi"/);
  await refused([{ method: "sequential" }], /each of the 2 flows/);
  await refused([{ method: "jacobi", modules: 0 }, { method: "jacobi" }], /inversion\[0\].modules/);
  for (const tolerance of [0.011, 1, -1, Number.NaN])
    await refused(
      [{ method: "jacobi", tolerance }, { method: "jacobi" }],
      /^inversion\[0\]\.tolerance: expected a number from 0 to 0\.01, got/,
    );
  for (const [name, value] of Object.entries({ modules: 4, sweeps: 1, tolerance: 0, fromZeros: false }))
    await refused(
      [
        { method: "jacobi", [name]: value },
        { method: "sequential", [name]: value },
      ],
      new RegExp(`^inversion\\[1\\]\\.${name}: expected nothing beside method "sequential".*, got ${value}$`),
    );
  engine.dispose();
});

test("a measuring ends when nobody waits for it any more, and goes on while anybody does", async (t) => {
  const { engine, model } = await open();
  const options = { prompt: "abc", maxTokens: 20, seed: 9 };
  const reason = new Error("enough");
  const [first, second] = [new AbortController(), new AbortController()];
  const left = model.generate({ ...options, inversion: "auto", signal: first.signal });
  const stays = model.generate({ ...options, inversion: "auto", signal: second.signal });
  first.abort(reason);
  t.is((await t.throwsAsync(async () => left))?.cause, reason);
  t.deepEqual((await stays).ids, (await model.generate(options)).ids);
  const alone = new AbortController();
  const gone = model.generateBatch({ prompts: ["a", "b"], maxTokens: 20, inversion: "auto", signal: alone.signal });
  alone.abort(reason);
  t.is((await t.throwsAsync(gone))?.cause, reason);
  const texts = await model.generateBatch({ prompts: ["a", "b"], maxTokens: 20, inversion: "auto" });
  t.is(texts.length, 2, "measured anew");
  t.is(await t.throwsAsync(model.measureInversions({ signal: AbortSignal.abort(reason) })), reason);
  engine.dispose();
});

test("an ancestral draw: alike in a batch, whatever the plan of the flow that is drawn from; what cannot be drawn from is refused", async (t) => {
  const { engine, model } = await open();
  const options = { prompt: "abc", maxTokens: 12, seed: 9 };
  const { ids } = await model.generate({ ...options, ancestral: true });
  t.deepEqual((await model.generate({ ...options, ancestral: true, inversion: "jacobi" })).ids, ids);
  const batch = await model.generateBatch({ prompts: ["xyz", "abc"], maxTokens: 12, seed: 8, ancestral: true });
  t.deepEqual(batch[1]!.ids, ids);
  // The flow nearest the noise is mixture-cdf: its weights are no vocabulary's.
  const refused = (own: object, expected: object) => t.throwsAsync(async () => model.generate(own), expected);
  await refused({ ancestral: true, temperature: 0.5 }, { code: "ERR_UNSUPPORTED", message: /only mixture-rosenblatt/ });
  await refused({ topK: 3 }, { code: "ERR_UNSUPPORTED", message: /only mixture-rosenblatt/ });
  await refused({ topP: 0.5, ancestral: false }, { message: /ancestral: expected true with topK or topP/ });
  await refused({ topP: 0 }, { message: /topP: expected a number above 0 to 1/ });
  await refused({ ancestral: 1 }, { message: /ancestral: expected true or false/ });
  const plans = (upper: string) => ({ ancestral: true, inversion: [{ method: "jacobi" }, { method: upper }] });
  await refused(plans("jacobi"), {
    code: "ERR_INVALID_ARGUMENT",
    message: /inversion\[1\] has no effect: that flow is drawn from/,
  });
  t.deepEqual((await model.generate({ ...options, ...plans("sequential") } as FlowGenerateOptions)).ids, ids);
  engine.dispose();
});

test("an ancestral draw from the only flow: nothing is inverted, so nobody can say how", (t) => {
  const config = { flows: [{ kind: "mixture-rosenblatt", direction: "forward", numLayers: 1 }] } as FlowConfig;
  const drawn = { temperature: 1, topK: 0, topP: 0.9 };
  for (const inversion of ["jacobi", "auto"] as const) {
    const why = "the only flow is drawn from (ancestral, topK, topP), not inverted";
    const message = `generate: inversion "${inversion}" has no effect: ${why}`;
    t.throws(() => checkAncestral({ topP: 0.9, inversion }, config), { code: "ERR_INVALID_ARGUMENT", message });
    t.is(checkAncestral({ inversion }, config), undefined);
    t.deepEqual(
      checkAncestral({ topP: 0.9, inversion }, { ...config, flows: [...config.flows, ...config.flows] }),
      drawn,
    );
  }
  t.deepEqual(checkAncestral({ topP: 0.9, inversion: "sequential" }, config), drawn);
});

test("a mixture of tokens that faces the noise: its weights are cut and tempered", async (t) => {
  const flows = [
    { kind: "affine", direction: "reverse", numLayers: 1 },
    { kind: "mixture-rosenblatt", direction: "forward", numLayers: 1 },
  ] as const;
  const { options } = await fixture({ ...tinyFlow, flow: { latentSize: 4, flows: [...flows] }, steps: 10 });
  await trained(options);
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(options.run, { family: "flow" });
  const asked = { prompt: "abc", maxTokens: 16, seed: 2 };
  const likeliest = await model.generate({ ...asked, topK: 1 });
  t.deepEqual((await model.generate({ ...asked, ancestral: true, temperature: 0 })).ids, likeliest.ids);
  t.deepEqual((await model.generate({ ...asked, topP: 1e-6 })).ids, likeliest.ids);
  t.notDeepEqual((await model.generate({ ...asked, ancestral: true })).ids, likeliest.ids);
  const text = await noema(
    "generate",
    options.run,
    "--prompt",
    "abc",
    "--max-tokens",
    "16",
    "--seed",
    "2",
    "--top-k",
    "1",
  );
  t.is(text.out.trimEnd(), likeliest.text.trimEnd());
});

test("events: what is committed is the text", async (t) => {
  const { engine, model } = await open();
  const generation = model.generate({ prompt: "ab", maxTokens: 6 });
  const types: string[] = [];
  let text = "";
  for await (const event of generation) {
    types.push(event.type);
    if (event.type === "commit") text += event.text;
  }
  t.is(text, (await generation).text);
  t.is(types.at(-1), "finish");
  t.deepEqual((await model.generate({ maxTokens: 0 })).ids, new Int32Array(0));
  engine.dispose();
});

test("aborting, disposing and refusals come out of the generation", async (t) => {
  const { engine, model } = await open();
  const controller = new AbortController();
  const reason = new Error("enough");
  controller.abort(reason);
  t.is((await t.throwsAsync(async () => model.generate({ signal: controller.signal })))?.cause, reason);
  await t.throwsAsync(async () => model.generate({ prompt: [99] }), { message: /prompt\[0\]/ });
  const refused = (expected: object, ...options: unknown[]) =>
    t.throwsAsync(model.generateBatch(...(options as [{ prompts: [] }])), {
      code: "ERR_INVALID_ARGUMENT",
      ...expected,
    });
  await refused({ message: /^prompts\[1\]\[0\]: expected an integer from 0 to 98/ }, { prompts: ["a", [9999]] });
  await refused({ message: /^prompts\[1\]: expected a string or a list/ }, { prompts: ["a", null] });
  await refused({ message: /^prompts\[1\]: expected a string or a list/ }, { prompts: ["a", undefined] });
  await refused({ message: /^prompts\[0\]: expected a string or a list/ }, { prompts: new Array(1) });
  await refused({ message: /^prompts: expected a list/ }, { prompts: "ab" });
  await t.throwsAsync(async () => model.generate({ prompt: null as never }), { message: /^prompt: expected a string/ });
  await t.throwsAsync(async () => model.generate({ maxTokens: 99 }), { code: "ERR_PROMPT_TOO_LONG" });
  await t.throwsAsync(async () => model.generate({ temprature: 1 } as object), {
    message: /did you mean "temperature"/,
  });
  await t.throwsAsync(async () => model.generate({ temperature: -1 }), { message: /temperature/ });
  model.dispose();
  await t.throwsAsync(async () => model.generate(), { code: "ERR_DISPOSED" });
  engine.dispose();
});

test("scoring: what is known costs less; weighting by importance only tightens", async (t) => {
  const { engine, model } = await open();
  const known = await model.score("abcabcabcabc", { draws: 8 });
  const unknown = await model.score("qQ!7Zk(w)K?j", { draws: 8 });
  t.like(known, { bound: "upper", form: "telescoped", tokens: 12, draws: 8 });
  t.true(known.nats < 0.7 * unknown.nats, `${known.nats} ${unknown.nats}`);
  t.true(known.importanceWeighted! <= known.nats);
  t.true(known.standardError > 0);
  const continued = await model.score("abc", { context: "abcabcabc", draws: 8 });
  t.is(continued.tokens, 3);
  const file = join(await scratch(), "text.txt");
  await writeFile(file, "abc".repeat(8));
  const { nats } = await evaluate(model, file, { prefix: 9, limit: 1, draws: 8 });
  t.is(nats, (await model.score("abc".repeat(5), { context: "abcabcabc", draws: 8 })).nats);
  t.deepEqual(await model.score("abcabc", { draws: 3, callTokens: 6 }), await model.score("abcabc", { draws: 3 }));
  await t.throwsAsync(model.score("abc", { form: "stratified" }), { message: /form/ });
  engine.dispose();
});

test("on the command line: how fast it writes, every way of inverting, what early exits are worth", async (t) => {
  const { engine, folder } = await open();
  engine.dispose();
  const json = async (...flags: string[]) => {
    const { out, error } = await noema("bench", folder, "--json", ...flags);
    t.is(error, "");
    return JSON.parse(out);
  };
  const figure = await json("--max-tokens", "6", "--runs", "3", "--inversion", "jacobi");
  t.like(figure, { way: "inversion jacobi", passes: 12 });
  t.is(figure.milliseconds.length, 3);
  const measures = await json("--inversions", "--max-tokens", "8");
  t.deepEqual(
    new Set(measures.map(({ plan }: { plan: { method: string } }) => plan.method)),
    new Set(["sequential", "jacobi"]),
  );
  const { out } = await noema("bench", folder, "--inversions", "--max-tokens", "8");
  t.regex(out, /^flow +way +ms +sweeps\n2 +sequential +[\d.]+ +8.0\n2 +jacobi, 1 module +[\d.]+ +[\d.]+\n/);
  t.regex((await noema("bench", folder, "--exits")).out, /\n1 +[\d.]+\n/, "no readouts, nothing to agree");
  t.regex((await noema("bench", folder, "--think", "3")).error, /"think" is for thought models; this is a flow one/);
  t.regex((await noema("score", folder, "abc", "--draws", "1")).out, /at most [\d.]+ nats, /);
});

test("on the command line: a text's states, a picture of them, an edit", async (t) => {
  const { engine, folder } = await open();
  engine.dispose();
  const svg = join(await scratch(), "states.svg");
  const looked = await noema("inspect", folder, "--text", "abc<a&b>", "--svg", svg);
  t.is(looked.error, "");
  t.regex(looked.out, /^state +norm/);
  t.regex(looked.out, /0 \(text\).*\d+ % +\S+/);
  const picture = await readFile(svg, "utf8");
  t.regex(picture, /^<svg [^>]+>/);
  t.regex(picture, /state 2/);
  t.false(/<a&b>/.test(picture), "text is escaped");
  const { levels } = JSON.parse((await noema("inspect", folder, "--text", "abc", "--json")).out);
  t.is(levels[2].latents.length, 12);
  const drawn = JSON.parse(
    (await noema("inspect", folder, "--text", "abc", "--json", "--seed", "4", "--threads", "1")).out,
  );
  t.notDeepEqual(drawn.levels[0].latents, levels[0].latents);
  t.regex((await noema("inspect", folder, "--text", "abc", "--device", "tpu")).error, /device/);
  t.regex((await noema("inspect", folder, "--svg", svg)).error, /give --text/);

  const edit = (...args: string[]) => noema("edit", folder, "--text", "abcabc", ...args);
  const { out, code } = await edit("--replace", "b=x", "--json", "--seed", String(2n ** 63n));
  t.is(code, 0);
  const { text, differences, latents, ids } = JSON.parse(out);
  t.is(ids.length, 6);
  t.is(latents.length, 24);
  t.is(text[1], "x");
  t.like(differences[0], { at: 1, asked: true });
  t.is((await edit("--replace", "a=a")).out, "abcabc\n");
  t.regex((await edit("--replace", "ab=x")).error, /"ab" has 2 tokens and "x" 1/);
  t.regex((await edit("--replace", "z=x")).error, /do not hold those of "z"/);
  t.regex((await edit("--replace", "x")).error, /expected old=new/);
  t.regex((await edit("--replace", "a=b", "--level", "9")).error, /level/);
});

test("on the command line: generate and score", async (t) => {
  const { engine, folder } = await open();
  engine.dispose();
  const { out, error, code } = await noema("generate", folder, "--prompt", "abc", "--max-tokens", "5", "--seed", "2");
  t.is(error, "");
  t.is(code, 0);
  t.true(out.length > 0);
  const swept = await noema(
    ...["generate", folder, "--prompt", "abc", "--max-tokens", "5", "--seed", "2", "--inversion", "jacobi"],
  );
  t.is(swept.out, out);
  const unknown = await noema("generate", folder, "--inversion", "jacoby");
  t.regex(unknown.error, /ERR_UNKNOWN_OPTION: .*did you mean "jacobi"/);
  const refused = await noema("generate", folder, "--decoding", "conv", "--prompt", "a");
  t.regex(refused.error, /"decoding" is for masked models/);
  const looked = await noema("inspect", folder);
  t.regex(looked.out, /^flows\[1\] +kind mixture-cdf, direction reverse, numLayers 1, numComponents 4/m);
  const scored = await noema("score", folder, "abcabc", "--draws", "2");
  t.regex(scored.out, /at most .* nats, .* per token \(6 tokens, 2 draws, telescoped\)/);
});
