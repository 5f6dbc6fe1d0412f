import { existsSync, readdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { writeSafetensors } from "../../lib/checkpoint/safetensors.js";
import { loadAddon } from "../../lib/native/load.js";
import { compare, parseTolerance, toleranceOf } from "../../lib/verification/tolerance.js";
import { type ArrayReport, assertPassed, verify } from "../../lib/verification/verify.js";
import { fakeAddon } from "../support/fake-addon.js";
import { root } from "../support/files.js";
import { sharedFolder } from "./temporary.js";

const { addon } = fakeAddon();

test("tolerances: read as they are worded", (t) => {
  const limit = (text: string) => parseTolerance(text)!.clauses;
  t.like(limit("abs 1e-4")[0], { over: "each", absolute: 1e-4, relative: 0 });
  t.like(limit("rel 1e-5 + abs 1e-6")[0], { absolute: 1e-6, relative: 1e-5 });
  const [norm, each] = limit("rel L2 per tensor 2e-5, abs 2e-5*max|grad| + 1e-7");
  t.like(norm, { over: "l2", relative: 2e-5 });
  t.like(each, { over: "each", ofMax: 2e-5, absolute: 1e-7 });
  t.like(limit("floats rel 1e-12 (of what follows); ids exact")[0], { relative: 1e-12 });
  t.is(parseTolerance("about right"), undefined);
});

test("tolerances: found by pattern, by the last parts of a name, or by the rules for all cases", (t) => {
  const description = { tolerance_f32: { logits: "abs 1e-3", "grad.*": "rel 1e-2", "hidden.*": "abs 5e-4" } };
  const of = (name: string, values: Float32Array | Int32Array = new Float32Array(1)): string =>
    toleranceOf({ name, shape: [1], values }, description).text;
  t.is(of("logits"), "abs 1e-3");
  t.is(of("padR.logits"), "abs 1e-3");
  t.is(of("hidden.block.2"), "abs 5e-4");
  t.is(of("grad.a.weight"), "rel 1e-2");
  t.is(of("something"), "abs 1e-4 of the rms");
  t.is(of("train.loss"), "rel 1e-5");
  t.is(of("ids", new Int32Array(1)), "equal");
});

test("comparing: limits, NaN, lengths, rows that do not count", (t) => {
  const tolerance = parseTolerance("abs 0.1")!;
  t.true(compare([1, 2.05], [1, 2], tolerance).ratio < 1);
  t.true(compare([1, 2.2], [1, 2], tolerance).ratio > 1);
  t.true(compare([Number.NaN], [1], tolerance).ratio > 1);
  t.is(compare([Number.NaN], [Number.NaN], tolerance).ratio, 0);
  t.true(compare([1], [1, 2], tolerance).ratio > 1);
  t.is(compare([1, 9], [1, 2], tolerance, [0, 1]).ratio, 0);
  t.true(compare([0, 0], [3, 4], parseTolerance("rel L2 per tensor 0.5")!).ratio > 1);
});

/** A decoder over given logits, small enough to work out by hand: three masks behind one known token. */
async function smallCase(change: { trace?: number[] } = {}): Promise<string> {
  const folder = sharedFolder();
  const logits = [0, 0, 0, 0, 2, 1, 0, 0, 0, 3, 0, 0, 0, 0, 4, 0];
  const trace = change.trace ?? [0, 3, 3, 3, 0, 0, 3, 3, 0, 0, 1, 3, 0, 0, 1, 2];
  const arrays = {
    "one.logits": { dtype: "F64", shape: [1, 4, 4], data: Float64Array.from(logits) },
    "one.prompt": { dtype: "I32", shape: [1, 1], data: Int32Array.of(0) },
    "one.trace": { dtype: "I32", shape: [4, 1, 4], data: Int32Array.from(trace) },
    "one.num_transfer": { dtype: "I32", shape: [1, 3], data: Int32Array.of(1, 1, 1) },
    other: { dtype: "F32", shape: [1], data: Float32Array.of(1) },
  } as const;
  await writeSafetensors(
    join(folder, "expected.safetensors"),
    Object.entries(arrays).map(([name, { dtype, shape, data }]) => ({
      name,
      dtype,
      shape: [...shape],
      data: async () => data,
    })),
  );
  const one = { fn: "generate_llada_convolution", block_length: 3, conv_mult: 1, steps: 3, gen_length: 3, mask_id: 3 };
  await writeFile(join(folder, "expected.json"), JSON.stringify({ params: { one: { ...one, kernel_used: 3 } } }));
  return folder;
}

test("a case: what is computed, what is given, what is unknown, and a wrong value", async (t) => {
  const seen: ArrayReport[] = [];
  const report = await verify(await smallCase(), { addon, onArray: (one) => seen.push(one) });
  const status = Object.fromEntries(report.arrays.map((one) => [one.name, one.status]));
  t.is(seen.length, 5);
  t.is(status["other"], "skipped");
  t.is(status["one.logits"], "input");
  t.is(status["one.num_transfer"], "checked");
  t.is(status["one.trace"], "checked");
  t.true(report.passed);
  const wrong = await verify(await smallCase({ trace: new Array(16).fill(0) }), { addon });
  t.false(wrong.passed);
  t.throws(() => assertPassed(wrong), { code: "ERR_VERIFICATION_FAILED", message: /one\.trace/ });
});

test("nothing to check is no success", async (t) => {
  const folder = sharedFolder();
  await writeSafetensors(join(folder, "expected.safetensors"), [
    { name: "a", dtype: "F32", shape: [1], data: async () => Float32Array.of(1) },
  ]);
  await writeFile(join(folder, "expected.json"), "{}");
  const report = await verify(folder, { addon });
  t.is(report.skipped, 1);
  t.throws(() => assertPassed(report), { code: "ERR_UNSUPPORTED" });
  await t.throwsAsync(verify(join(folder, "nowhere"), { addon }), { code: "ERR_IO" });
});

const golden = process.env["NOEMA_GOLDEN"] ?? join(root, "..", "shared", "golden");
const backends = ["cpu", "reference"] as const;
const folders = ["masked", "flow", "thought"].flatMap((family) => {
  const cases = join(golden, family);
  const names = existsSync(cases) ? readdirSync(cases) : [];
  return names.map((name) => join(family, name));
});

if (folders.length === 0) {
  test("golden cases", (t) => {
    t.log("skipped: set NOEMA_GOLDEN to a folder of golden cases");
    t.pass();
  });
}
for (const name of folders) {
  for (const backend of backends) {
    test.serial(`golden case ${name}, backend ${backend}`, async (t) => {
      const { addon: native } = loadAddon();
      if (!native.createEngine) {
        t.log("skipped: this addon has no engine");
        return t.pass();
      }
      const report = await verify(join(golden, name), { backend });
      assertPassed(report);
      for (const { name: array, status, reason } of report.arrays) {
        if (status === "skipped") t.regex(reason!, /caches|not in this version|nothing in this version/, array);
      }
      return t.true(report.passed);
    });
  }
}
