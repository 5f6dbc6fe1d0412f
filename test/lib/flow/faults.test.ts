/** What a flow model refuses to compute or to give back, and what its errors say of where. */

import { cp, open as openFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { openCheckpoint } from "../../../lib/checkpoint/folder.js";
import { SafetensorsFile } from "../../../lib/checkpoint/safetensors.js";
import { createEngine, type ErrorCode, type FlowModel, NoemaError } from "../../../lib/index.js";
import type { NativeFlowModel } from "../../../lib/native/addon.js";
import { latentNoise } from "../../../lib/normals.js";
import { flowSampler } from "../../../lib/training/flow/samples.js";
import { scratch } from "../training/scratch.js";
import { fixture, trained } from "../training/tiny-run.js";
import { tinyFlow } from "./tiny-flow.js";

let run: Promise<string> | undefined;

async function trainedRun(): Promise<string> {
  const { options } = await fixture(tinyFlow);
  await trained(options);
  return options.run;
}

async function open() {
  run ??= trainedRun();
  const engine = await createEngine({ threads: 1 });
  const model: FlowModel = await engine.load(await run, { family: "flow" });
  return { engine, model };
}

const at = (flow: number | undefined, position: number, sequence = 0) => ({
  ...(flow !== undefined && { flow }),
  ...{ sequence, firstPosition: position, lastPosition: position },
});

test("an edit puts no latents in that are no token's: the error names flow and position", async (t) => {
  const { engine, model } = await open();
  const text = "abcabcabcabc";
  for (const [level, position] of [
    [0, 1],
    [1, 3],
    [2, 5],
  ] as const)
    for (const value of [1e5, 1e10, 1e19, 1e30, 1e200]) {
      const changed = { text, level, latents: [{ position, values: Array(4).fill(value) }] };
      const error = await t.throwsAsync(model.edit(changed), { code: "ERR_NON_FINITE" }, `${level} ${value}`);
      const flow = value >= 1e19 ? Math.min(level, 1) : 0;
      t.like(error, { details: at(flow, position) }, `${level} ${value}: ${error.message}`);
      t.regex(error.message, new RegExp(`^flow ${flow}: .*position ${position}[ ,]`));
    }
  const far = await model.edit({ text, latents: [{ position: 1, values: Array(4).fill(30) }] });
  t.true(far.latents.every(Number.isFinite));
  engine.dispose();
});

test("noise outside of what can be inverted, likelihoods of what no text is, readings of it", async (t) => {
  const { engine, model } = await open();
  const { native } = model;
  const request = { ids: new Int32Array(16), batch: 2, length: 8 };
  for (const value of [1e5, 1e20, 1e30, 1e38, 1e39]) {
    const latents = Float64Array.from(latentNoise(0, 64)).fill(value, 44, 48);
    const error = await t.throwsAsync(native.invert({ ...request, latents, level: 2 }), undefined, `${value}`);
    t.like(error, { code: "ERR_NON_FINITE", details: at(value >= 1e20 ? 1 : 0, 3, 1) }, error.message);
  }
  const noise = latentNoise(0, 64).fill(1e30, 44, 48);
  t.like(await t.throwsAsync(native.encode({ ...request, noise })), {
    code: "ERR_NON_FINITE",
    details: at(undefined, 3, 1),
  });
  t.like(await t.throwsAsync(native.trace({ ...request, noise })), { code: "ERR_NON_FINITE", details: at(0, 3, 1) });
  const latents = Float64Array.from({ length: 8 }, (_, i) => (i < 4 ? 0 : 1e19));
  const unread = await t.throwsAsync(model.decode({ level: 0, latents }), { message: /position 1$/ });
  t.like(unread, { code: "ERR_NON_FINITE", details: at(undefined, 1) });
  engine.dispose();
});

test("a checkpoint with a sigma of 0 or infinity does not load: the error names tensor and entry", async (t) => {
  const { engine, model } = await open();
  for (const value of [-1000, 1000]) {
    const folder = join(await scratch(), "broken");
    await cp(await run!, folder, { recursive: true });
    const { path, name } = (await openCheckpoint(folder)).tensors.get("codebook.log_sigma")!;
    await using file = await SafetensorsFile.open(path);
    const handle = await openFile(path, "r+");
    // bf16 is the upper half of f32.
    const { offset, dtype } = file.tensors.get(name)!;
    t.is(dtype, "BF16");
    await handle.write(new Uint8Array(Float32Array.of(value).buffer), 2, 2, offset + 7 * 2);
    await handle.close();
    await t.throwsAsync(engine.load(folder), {
      code: "ERR_NON_FINITE",
      message: new RegExp(`tensor codebook.log_sigma, entry 7: ${value} makes a sigma of ${value < 0 ? "0" : "inf"}`),
    });
  }
  model.dispose();
  engine.dispose();
});

test("a plan that does not converge: flow, sequence and positions, as they stand in the text, in the error's details", async (t) => {
  const { engine, model } = await open();
  const hurried = (l: number) =>
    [0, 1].map((at) => ({ method: "jacobi" as const, ...(at === l && { sweeps: 1, tolerance: 1e-7, modules: 4 }) }));
  // A prefix of 3 positions and 16 to be found, in fours. Flow 1 begins with the text's end, flow 0 with its start.
  const asked = { prompt: "abc", maxTokens: 16 };
  for (const [flow, firstPosition] of [
    [1, 15],
    [0, 3],
  ] as const) {
    const lastPosition = firstPosition + 3;
    const details = { flow, sequence: 0, firstPosition, lastPosition };
    const refused = {
      code: "ERR_NOT_CONVERGED",
      message: new RegExp(`positions ${firstPosition} to ${lastPosition} of`),
    };
    const error = await t.throwsAsync(async () => model.generate({ ...asked, inversion: hurried(flow) }), refused);
    t.like(error, { details }, error.message);
  }
  // The first prompt leaves two positions, a module each, which are right at once; the second is the first sequence of another call.
  const prompts = ["a".repeat(22), "abc"];
  const batch = await t.throwsAsync(model.generateBatch({ prompts, inversion: hurried(0) }));
  t.like(batch, { code: "ERR_NOT_CONVERGED", details: { flow: 0, sequence: 0, prompt: 1 } });
  engine.dispose();
});

test("a sample that a model in training cannot write says why, and ends no run; a defect does", async (t) => {
  const { engine, model } = await open();
  const failing = (code: ErrorCode) => {
    const invert = () => Promise.reject(new NoemaError(code, "flow 0: no token's"));
    const codec = { encode: () => new Int32Array(0), decode: () => "" };
    return flowSampler({ invert } as unknown as NativeFlowModel, model.config, codec, { length: 4 });
  };
  t.is(await failing("ERR_NON_FINITE")("", 0), "(no text: flow 0: no token's)");
  t.is(await failing("ERR_NOT_CONVERGED")("", 0), "(no text: flow 0: no token's)");
  await t.throwsAsync(failing("ERR_INTERNAL")("", 0), { code: "ERR_INTERNAL" });
  engine.dispose();
});

test("sweeps are run forward again: what they are off is told, per text", async (t) => {
  const { engine, model } = await open();
  const asked = { prompts: ["abc", "xyz"], maxTokens: 12, seed: 3 };
  for (const { residual } of await model.generateBatch(asked)) t.is(residual, undefined, "nothing was swept");
  for (const inversion of ["jacobi", [{ method: "sequential" }, { method: "jacobi", modules: 3 }]] as const) {
    const results = await model.generateBatch({ ...asked, inversion });
    for (const { residual } of results) t.true(residual! > 0 && residual! < 1e-5, `${residual}`);
    const one = await model.generate({ prompt: "xyz", maxTokens: 12, seed: 4, inversion });
    t.is(one.residual, results[1]!.residual);
  }
  const refined = await model.generate({ prompt: "abc", maxTokens: 12, refine: true, inversion: "jacobi" });
  t.true(refined.residual! > 0 && refined.residual! < 1e-5);
  for (const { plan, residual, differing } of await model.measureInversions({ positions: 16, batch: 2 })) {
    t.true(residual! > 0 && residual! < 1e-5, `${plan.method}: ${residual}`);
    t.is(differing, 0);
  }
  engine.dispose();
});
