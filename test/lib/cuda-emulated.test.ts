/**
 * A tiny model end to end on the CUDA kernels, emulated on the processor: trained, resumed, scored, written with, verified. Waits
 * until every op has its kernel.
 */

import { join } from "node:path";
import test from "ava";
import { type BackendName, createEngine, type TrainingEvent, type TrainOptions, verify } from "../../lib/index.js";
import { moduleFile } from "../../lib/native/device-module.js";
import { loadAddon } from "../../lib/native/load.js";
import { assertPassed } from "../../lib/verify.js";
import { noema } from "../support/command.js";
import { definitions } from "../support/files.js";
import { writeGolden } from "../support/golden-case.js";
import { sharedFolder } from "./temporary.js";
import { fixture, outcomeOf, trained } from "./training/tiny-run.js";

const backend: BackendName = "cuda-emulated";
/** Steps enough for two saves; a step is some millions of emulated thread-steps. */
const tiny: Partial<TrainOptions> = {
  shape: { hidden: 32, heads: 2, layers: 2, intermediate: 64 },
  ...{ steps: 4, batch: 2, microBatch: 2, length: 12, warmup: 1, saveEvery: 2 },
  ...{ evaluateEvery: 4, evaluateSequences: 2, evaluateDraws: 1 },
};

const close = (a: number, b: number, share: number): boolean => Math.abs(a - b) <= share * Math.abs(b);

/** Why the kernels cannot run a model here; undefined when they can. */
function obstacle(): string | undefined {
  const missing = definitions("native/include/noema/ops.def").flatMap(([name, , , cuda]) =>
    cuda === "yes" ? [] : name,
  );
  if (missing.length > 0) return `${missing.length} ops have no CUDA kernel yet`;
  return moduleFile(backend, loadAddon().path).reason;
}

const why = obstacle();
if (why !== undefined) {
  test("a tiny model on the emulated CUDA kernels", (t) => {
    t.log(`skipped: ${why}`);
    t.pass();
  });
} else {
  const run = sharedRun();

  test.serial("training falls as on the processor, and resuming changes no bit", async (t) => {
    const { whole, events } = await run;
    const cut = await fixture(tiny);
    await trained({ ...cut.options, stopAt: 2 }, { backend });
    await trained(cut.options, { backend });
    t.deepEqual(await outcomeOf(cut.options.run), await outcomeOf(whole.options.run));
    const processor = await fixture(tiny);
    const losses = (list: TrainingEvent[]) => list.flatMap((event) => (event.type === "step" ? [event.loss] : []));
    const [here, there] = [losses(events), losses(await trained(processor.options, { backend: "cpu" }))];
    t.is(here.length, 4);
    t.true(
      here.every((loss, i) => close(loss, there[i]!, 1e-3)),
      `${here.join(" ")}, on the processor ${there.join(" ")}`,
    );
  });

  test.serial("scores as on the processor, in f32 and in bf16", async (t) => {
    const { whole } = await run;
    const score = async (on: BackendName, precision: "f32" | "bf16") => {
      await using engine = await createEngine({ backend: on, threads: 1 });
      await using model = await engine.load(whole.options.run, { precision, family: "masked" });
      return (await model.score("abcabc", { draws: 2, seed: 3 })).nats;
    };
    const expected = await score("cpu", "f32");
    for (const [precision, share] of [["f32", 1e-4] as const, ["bf16", 2e-2] as const]) {
      const nats = await score(backend, precision);
      t.true(close(nats, expected, share), `${precision}: ${nats}, on the processor ${expected}`);
    }
  });

  test.serial("writes: one seed, one text, alone and in a batch; the device describes itself", async (t) => {
    const { whole } = await run;
    await using engine = await createEngine({ backend, threads: 1 });
    t.like(engine.device, { kind: "cuda", backend });
    t.regex(engine.device.description!, /compute capability/);
    await using model = await engine.load(whole.options.run, { family: "masked" });
    const prompts = ["ab", "xyzzy"];
    for (const rule of ["conv", "ancestral", "low-confidence", "entropy"]) {
      const options = { maxTokens: 6, decoding: { rule, steps: 3, temperature: 0.7 } };
      const batch = await model.generateBatch({ ...options, prompts, seed: 40 });
      for (const [i, prompt] of prompts.entries()) {
        const alone = await model.generate({ ...options, prompt, seed: 40 + i });
        t.deepEqual(alone.ids, batch[i]!.ids, `${rule} ${i}`);
      }
    }
  });

  test.serial("logits, hidden states, losses and gradients are the reference's", async (t) => {
    const { whole } = await run;
    const folder = join(sharedFolder(), "golden");
    await writeGolden(whole.options.run, folder);
    for (const on of ["cpu", backend] as const) {
      const report = await verify(folder, { backend: on });
      assertPassed(report);
      t.is(report.skipped, 0);
      t.is(report.backend, on);
    }
  });

  test.serial("on the command line", async (t) => {
    const { whole } = await run;
    process.env["NOEMA_BACKEND"] = backend;
    t.teardown(() => delete process.env["NOEMA_BACKEND"]);
    const flags = ["--device", "cuda", "--runs", "1", "--max-tokens", "4", "--steps", "2", "--json"];
    const { out, error } = await noema("bench", whole.options.run, ...flags);
    t.is(error, "");
    t.like(JSON.parse(out), { kind: "cuda", backend, tokens: 4 });
  });
}

/** One uninterrupted run for all tests. */
async function sharedRun() {
  const whole = await fixture(tiny);
  return { whole, events: await trained(whole.options, { backend }) };
}
