import { readFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { openCheckpoint } from "../../../lib/checkpoint/folder.js";
import { monitorLines } from "../../../lib/cli/monitors.js";
import type { FlowStage, HeldOutMetric, TrainOptions } from "../../../lib/index.js";
import { createEngine } from "../../../lib/index.js";
import type { NativeTrainer } from "../../../lib/native/addon.js";
import { separation } from "../../../lib/training/flow/codebook.js";
import { reconstructionWeight } from "../../../lib/training/flow/objective.js";
import { flowStart } from "../../../lib/training/flow/weights.js";
import { noema } from "../../support/command.js";
import { fixture, outcomeOf, trained } from "../training/tiny-run.js";
import { tinyFlow } from "./tiny-flow.js";

const heldOut = (events: readonly { type: string }[]) =>
  events.filter((event): event is HeldOutMetric => event.type === "held-out");

test("the bound falls, monitors come with it, and resuming changes no bit, whatever the threads", async (t) => {
  const [whole, cut] = await Promise.all([fixture(tinyFlow), fixture(tinyFlow)]);
  const bounds = heldOut(await trained(whole.options));
  t.is(bounds.length, 3);
  t.true(Math.abs(bounds[0]!.bound - Math.log(98)) < 0.5, `untrained: ${bounds[0]!.bound}`);
  t.true(bounds[2]!.bound < 0.75 * bounds[0]!.bound, bounds.map(({ bound }) => bound).join(" "));
  const { gains, meanSquares, separation } = bounds[2]!.flows!;
  t.is(gains.length, 2);
  t.true(
    Math.abs(gains[0]! - gains[1]! - bounds[2]!.bound) < 1e-3,
    "the first flow's bound, less the gains, is the bound",
  );
  t.is(meanSquares.length, 3);
  t.true(meanSquares[1]! > 0.5 && meanSquares[1]! < 2, `${meanSquares}`);
  t.true(separation > 0);
  await trained({ ...cut.options, stopAt: 23 }, { threads: 2 });
  await trained({ ...cut.options, stopAt: 41 });
  await trained(cut.options, { threads: 2 });
  t.deepEqual(await outcomeOf(cut.options.run), await outcomeOf(whole.options.run));
});

test("the codebook keeps its gauge, its floor and its ceiling", async (t) => {
  const bounds = { sigmaFloor: 0.3, sigmaCeiling: 0.32 };
  const { options } = await fixture({ ...tinyFlow, steps: 5, ema: 0, ...bounds, rate: 0.1 });
  await trained(options);
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(options.run, { family: "flow" });
  const trainer = await model.native.trainer({ keepAverage: false });
  const mean = await trainer.read("parameter", "codebook.mean");
  const logSigma = await trainer.read("parameter", "codebook.log_sigma");
  trainer.dispose();
  const rms = Math.sqrt(mean.reduce((sum, x) => sum + x * x, 0) / mean.length);
  t.true(Math.abs(rms - 1) < 0.01, `${rms}, as far as bf16 says`);
  t.true(logSigma.every((x) => Math.exp(x) > 0.3 * 0.99 && Math.exp(x) < 0.32 * 1.01));
  t.true(
    logSigma.some((x) => Math.exp(x) > 0.31),
    "some would be larger",
  );
  await t.throwsAsync(trained({ ...options, sigmaCeiling: 0.2 }), {
    message: /sigmaCeiling is 0.2, expected 0, or at least sigmaFloor \(0.3\)/,
  });
});

test("a fixed codebook keeps its means, and its deviations between their bounds", async (t) => {
  const means = async (steps: number, codebook: "fixed" | "trained") => {
    const { options } = await fixture({ ...tinyFlow, steps, ema: 0, codebook, sigmaCeiling: 0.3, rate: 0.1 });
    await trained(options);
    await using engine = await createEngine({ threads: 1 });
    await using model = await engine.load(options.run, { family: "flow" });
    const trainer = await model.native.trainer({ keepAverage: false });
    const logSigma = await trainer.read("parameter", "codebook.log_sigma");
    t.true(logSigma.every((x) => Math.exp(x) < 0.3 * 1.01));
    const mean = await trainer.read("parameter", "codebook.mean");
    trainer.dispose();
    return mean;
  };
  const one = await means(1, "fixed");
  t.deepEqual(await means(4, "fixed"), one);
  t.notDeepEqual(await means(4, "trained"), one);
});

test("a stage on top: the flows below and the codebook keep their values", async (t) => {
  const first = await fixture({
    ...tinyFlow,
    flow: { ...tinyFlow.flow!, flows: [tinyFlow.flow!.flows[0]!] },
    steps: 6,
  });
  await trained(first.options);
  const top: FlowStage = { kind: "affine", direction: "reverse", numLayers: 1 };
  const { shape: _, tokenizer: __, ...rest } = first.options;
  const options: TrainOptions = {
    ...rest,
    run: `${first.options.run}-2`,
    init: first.options.run,
    flow: { flows: [top] },
    stage: 1,
  };
  const events = heldOut(await trained({ ...options, steps: 12, evaluateEvery: 6 }));
  const { gains } = events.at(-1)!.flows!;
  t.is(gains.length, 2);
  t.true(Math.abs(gains[0]! - events[0]!.flows!.gains[0]!) < 1e-5, "the first flow's own bound does not move");
  const [before, after] = await Promise.all([first.options.run, options.run].map((run) => openCheckpoint(run)));
  t.is(before!.config.layout, "noema-flow");
  t.is(after!.tensors.size > before!.tensors.size, true);
  t.is(after!.tensors.has("flows.1.head.weight"), true);
  const other = { ...options, run: `${options.run}-other`, flow: { flows: [top], latentSize: 4, patchSize: 2 } };
  await t.throwsAsync(trained(other), {
    code: "ERR_INVALID_ARGUMENT",
    message: "flow.patchSize: expected 1, as the stack of init has it, got 2",
  });
});

/** A trainer whose codebook has these means, of one channel each, and deviations of 1. */
function codebookOf(means: Float32Array): NativeTrainer {
  const read = async (_: string, name: string) => (name === "codebook.mean" ? means : new Float32Array(means.length));
  return { read } as unknown as NativeTrainer;
}

test("the codebook's separation is the nearest pair's, wherever it lies, and holds nobody up", async (t) => {
  const means = Float32Array.from({ length: 4096 }, (_, token) => token);
  means[4095] = means[2047]! + 0.25; // no stride meets both
  let turns = 0;
  const timer = setInterval(() => turns++, 0);
  t.is(await separation(codebookOf(means), "parameter"), 0.125);
  clearInterval(timer);
  t.true(turns > 5, `${turns} turns of the event loop`);
  t.is(await separation(codebookOf(Float32Array.of(3, 1, 7)), "parameter"), 1);
});

test("monitors in lines for people: of flows, of readouts, of nothing else", (t) => {
  const flows = { gains: [3.5, 0.25], meanSquares: [1, 0.98, 1.016], kurtosis: [3, 2.96, 3.1], separation: 4.2 };
  t.deepEqual(monitorLines({ flows }), [
    "  flow 1 alone 3.5000, flow 2 takes off 0.2500; states' mean squares 1.00 0.98 1.02, kurtosis 3.0 3.0 3.1; codebook separation 4.20",
  ]);
  t.deepEqual(monitorLines({ readouts: { crossEntropy: [0.01, 4], accuracy: [0.999, 0.213] } }), [
    "  readouts: state 1 99.9 % right, 0.0100 nats per token; state 2 21.3 % right, 4.0000 nats per token",
  ]);
  t.deepEqual(monitorLines({}), []);
});

test("how a fresh stack begins", async (t) => {
  const { options } = await fixture({ ...tinyFlow, steps: 1 });
  await trained(options);
  const { config } = await openCheckpoint(options.run);
  if (config.layout !== "noema-flow") return t.fail();
  const at = (name: string, index: number) => {
    const start = flowStart(name, config);
    return typeof start === "number" ? start : start(index);
  };
  t.is(at("flows.1.maf.out.weight", 3), 0);
  t.is(at("flows.1.maf.out.bias", 0), 0);
  t.deepEqual(
    [4, 7].map((i) => Number(at("flows.1.maf.out.bias", i).toFixed(6))),
    [-0.1, 0.1],
  );
  t.is(at("flows.1.maf.out.bias", 8), 0);
  t.is(at("flows.0.layers.0.attention_norm.weight", 0), 1);
  return t.true(at("flows.0.layers.1.o.weight", 0) < at("flows.0.layers.1.q.weight", 0));
});

test("the reconstruction's weight falls from its start to 1", (t) => {
  const weight = (step: number) => reconstructionWeight({ reconstruction: 2, reconstructionHalf: 100 }, step);
  t.deepEqual([1, 101, 201].map(weight), [2, 1.5, 1.25]);
});

test("on the command line, from a recipe", async (t) => {
  const { options, folder } = await fixture({
    ...tinyFlow,
    steps: 2,
    sampleEvery: 2,
    sampleLength: 8,
    samplePrompts: ["ab"],
  });
  await trained({ ...options, stopAt: 1 });
  const again = await noema("train", join(options.run, "recipe.json"), "--run", `${options.run}-again`);
  t.regex(again.out, /^step 0: held-out .* nats per token\n {2}flow 1 alone \d.*, flow 2 takes off .*separation \d/m);
  const { code, out, error } = await noema("train", join(options.run, "recipe.json"), "--stop-at", "0", "--json");
  t.is(error, "");
  t.is(code, 0);
  const events = out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  t.true(events.some(({ type, text }) => type === "sample" && text.startsWith("ab")));
  const scored = await noema(
    "evaluate",
    options.run,
    join(folder, "valid.txt"),
    "--draws",
    "2",
    "--limit",
    "2",
    "--json",
  );
  t.is(scored.error, "");
  t.like(JSON.parse(scored.out), { kind: "upper", form: "telescoped", sequences: 2 });
  t.regex(await readFile(join(options.run, "config.json"), "utf8"), /"noema-flow"/);
});

test("options that do not fit are refused before anything is read", async (t) => {
  const { options } = await fixture(tinyFlow);
  const refused = (changes: object, expected: object) =>
    t.throwsAsync(trained({ ...options, ...changes } as TrainOptions), expected);
  await refused({ flow: { flows: 3 } }, { code: "ERR_INVALID_ARGUMENT", message: /"flows"/ });
  await refused({ flow: { flws: [] } }, { code: "ERR_UNKNOWN_OPTION", message: /did you mean "flows"/ });
  await refused({ flow: { ...tinyFlow.flow, patchSize: 5 } }, { message: /length is 24/ });
  await refused({ flow: { flows: [{ kind: "affin", direction: "forward", numLayers: 1 }] } }, { message: /"kind"/ });
});
