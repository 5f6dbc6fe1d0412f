/** The real addon under rough treatment: workers terminated, processes ended, handles disposed, all in the middle of a run. */

import { spawn } from "node:child_process";
import { cp, readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import test from "ava";
import { createEngine, type NoemaError } from "../../lib/index.js";
import { writeSmallModel } from "../support/small-model.js";

const library = new URL("../../lib/index.ts", import.meta.url).href;
/** Workers do not inherit the loader of TypeScript. */
const typescript = import.meta.resolve("tsx/esm/api");
const slow = { maxTokens: 480, decoding: { rule: "low-confidence", steps: 480 } } as const;
const quick = { maxTokens: 24, decoding: { rule: "low-confidence", steps: 6, temperature: 0.8 } } as const;

const folder = writeSmallModel();

/** Starts an endless-looking generation and says "running" once it is under way; `then` is run after that. */
function program(path: string, then: string): string {
  return `
    const { createEngine } = await import(${JSON.stringify(library)});
    const engine = await createEngine({ threads: 2 });
    const model = await engine.load(${JSON.stringify(path)});
    const options = ${JSON.stringify(slow)};
    let seen = 0;
    for await (const event of model.generate({ ...options, refine: true, seed: 5 })) {
      if (event.type !== "refine" || ++seen !== 3) continue;
      ${then}
    }`;
}

interface Ending {
  code: number | null;
  signal: NodeJS.Signals | null;
  output: string;
}

function runProgram(
  source: string,
  react: (kill: (signal: NodeJS.Signals) => void) => void = () => {},
): Promise<Ending> {
  const child = spawn(process.execPath, ["--import=tsx", "--input-type=module", "-e", source]);
  let output = "";
  const hear = (data: Buffer) => {
    output += data.toString();
    if (output.includes("running")) react((signal) => child.kill(signal));
  };
  child.stdout.on("data", hear);
  child.stderr.on("data", hear);
  return new Promise((resolve) => child.on("close", (code, signal) => resolve({ code, signal, output })));
}

test("process.exit in the middle of a run ends cleanly with its own code", async (t) => {
  const { code, signal, output } = await runProgram(program(await folder, "process.exit(7);"));
  t.deepEqual({ code, signal, output }, { code: 7, signal: null, output: "" });
});

test("an exception nobody catches ends the process like any other", async (t) => {
  const { code, signal, output } = await runProgram(program(await folder, "throw new Error('on purpose');"));
  t.is(code, 1);
  t.is(signal, null);
  t.regex(output, /on purpose/);
});

test("SIGTERM in the middle of a run", async (t) => {
  const source = program(await folder, "console.log('running');");
  const { signal } = await runProgram(source, (kill) => kill("SIGTERM"));
  t.is(signal, "SIGTERM");
});

test("an idle engine does not keep the process alive", async (t) => {
  const source = `
    const { createEngine } = await import(${JSON.stringify(library)});
    const engine = await createEngine();
    globalThis.model = await engine.load(${JSON.stringify(await folder)});`;
  t.is((await runProgram(source)).code, 0);
});

test("workers load, run and are terminated mid-run; the process goes on", async (t) => {
  const tell = `(await import("node:worker_threads")).parentPort.postMessage("running");`;
  const source = `(await import(${JSON.stringify(typescript)})).register();${program(await folder, tell)}`;
  for (let round = 0; round < 3; round += 1) {
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`));
    await new Promise<void>((resolve, reject) => {
      worker.once("message", () => resolve());
      worker.once("error", reject);
    });
    t.is(await worker.terminate(), 1);
  }
  await using engine = await createEngine({ threads: 1 });
  const model = await engine.load(await folder, { family: "masked" });
  const { usage } = await model.generate({ ...quick, prompt: "Once" });
  t.is(usage.completionTokens, 24);
});

test("dispose during a run: ERR_DISPOSED, and the event loop was never held", async (t) => {
  const engine = await createEngine({ threads: 2 });
  const model = await engine.load(await folder, { family: "masked" });
  const run = model.generate({ ...slow, seed: 1 });
  let turns = 0;
  const timer = setInterval(() => {
    turns += 1;
  }, 1);
  await new Promise((resolve) => setTimeout(resolve, 30));
  engine.dispose();
  const error = await t.throwsAsync<NoemaError>(async () => await run);
  clearInterval(timer);
  t.is(error?.code, "ERR_DISPOSED");
  t.true(turns > 0);
});

test("a full queue answers at once with ERR_QUEUE_FULL", async (t) => {
  await using engine = await createEngine({ threads: 1, queueLimit: 1 });
  const model = await engine.load(await folder, { family: "masked" });
  const runs = Array.from({ length: 6 }, (_, seed) =>
    model.generate({ ...quick, seed }).then(
      () => "done",
      (error: unknown) => (error as NoemaError).code,
    ),
  );
  const outcomes = await Promise.all(runs);
  t.true(outcomes.includes("done"));
  t.true(outcomes.includes("ERR_QUEUE_FULL"));
});

test("one seed, one text: on one thread, on three, alone and in a batch, with every policy", async (t) => {
  await using one = await createEngine({ threads: 1 });
  await using three = await createEngine({ threads: 3 });
  const path = await folder;
  for (const precision of ["f32", "bf16"] as const) {
    const [narrow, wide] = await Promise.all([
      one.load(path, { precision, family: "masked" }),
      three.load(path, { precision, family: "masked" }),
    ]);
    for (const policy of [
      "ancestral",
      "random",
      "low-confidence",
      "entropy",
      "margin",
      "semi-autoregressive",
      "conv",
    ]) {
      const options = { maxTokens: 20, decoding: { rule: policy, steps: 7, temperature: 0.9 } };
      const prompts = ["Once upon a time", "The dog", "A very long day began"];
      const batch = await wide.generateBatch({ ...options, prompts, seed: 40 });
      for (const [i, prompt] of prompts.entries()) {
        const alone = await narrow.generate({ ...options, prompt, seed: 40 + i });
        t.deepEqual(batch[i]?.ids, alone.ids, `${policy} ${precision} ${i}`);
      }
    }
  }
});

test("a loaded model is its own: files that are overwritten or shortened change nothing, and loading one that ends early is refused", async (t) => {
  const own = `${await folder}-own`;
  await cp(await folder, own, { recursive: true });
  const weights = join(own, "model.safetensors");
  await using engine = await createEngine({ threads: 2, device: "cpu" });
  const model = await engine.load(own, { family: "masked" });
  const text = async () => (await model.generate({ ...quick, seed: 3 })).text;
  const expected = await text();
  const header = (await readFile(weights)).subarray(0, 4096);
  await writeFile(weights, Buffer.concat([header, Buffer.alloc(1 << 16, 0x3f)]));
  t.is(await text(), expected);
  await truncate(weights, 1000);
  t.is(await text(), expected);
  t.is((await t.throwsAsync<NoemaError>(engine.load(own)))?.code, "ERR_BAD_CHECKPOINT");
});
