import { writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { automaticBackend, backendFor } from "../../lib/device.js";
import { createEngine, NoemaError } from "../../lib/index.js";
import { moduleFile, moduleOf } from "../../lib/native/device-module.js";
import { noema } from "../support/command.js";
import { sharedFolder } from "./temporary.js";

test.serial("device and backend name one place to run", (t) => {
  t.is(backendFor(undefined, undefined), "auto");
  t.is(backendFor("auto", "reference"), "reference");
  t.is(backendFor("cpu", undefined), "cpu");
  t.is(backendFor("cuda", undefined), "cuda");
  t.is(backendFor({ cuda: 3 }, undefined), "cuda:3");
  t.is(backendFor("cuda", "cuda-emulated"), "cuda-emulated");
  t.is(backendFor({ cuda: 0 }, "cuda"), "cuda");
  t.is(backendFor("auto", "cuda:2"), "cuda:2");
});

test.serial("NOEMA_BACKEND is the default where it suits the device", (t) => {
  t.teardown(() => delete process.env["NOEMA_BACKEND"]);
  const preset = (name: string, device?: unknown) => {
    process.env["NOEMA_BACKEND"] = name;
    return backendFor(device, undefined);
  };
  t.is(preset("cuda"), "cuda");
  t.is(preset("cuda:1", "cuda"), "cuda:1");
  t.is(preset("cuda-emulated", "auto"), "cuda-emulated");
  t.is(preset("cuda", "cpu"), "cpu");
  t.is(preset("reference", "cpu"), "reference");
  t.is(preset("cpu", "cuda"), "cuda");
  t.is(preset(""), "auto");
  t.throws(() => preset("cuad"), { code: "ERR_UNKNOWN_OPTION", message: /did you mean "cuda"/ });
});

test("what no device is called", (t) => {
  const refuse = (device: unknown, backend: unknown, code: string, message: RegExp) =>
    t.throws(() => backendFor(device, backend), { instanceOf: NoemaError, code, message });
  refuse("cud", undefined, "ERR_UNKNOWN_OPTION", /did you mean "cuda"/);
  refuse({ cuda: -1 }, undefined, "ERR_INVALID_ARGUMENT", /from 0 to 63/);
  refuse({ cuda: 1.5 }, undefined, "ERR_INVALID_ARGUMENT", /cuda/);
  refuse({ cuda: 64 }, undefined, "ERR_INVALID_ARGUMENT", /cuda/);
  refuse({ cuda: 0, gpu: 1 }, undefined, "ERR_UNKNOWN_OPTION", /gpu/);
  refuse(null, undefined, "ERR_INVALID_ARGUMENT", /device/);
  refuse("auto", "cuda:x", "ERR_UNKNOWN_OPTION", /backend "cuda:x"/);
  refuse("auto", "cuda:99", "ERR_INVALID_ARGUMENT", /from 0 to 63/);
  refuse("cpu", "cuda", "ERR_INVALID_ARGUMENT", /backend "cuda" does not run on device "cpu"/);
  refuse({ cuda: 1 }, "cuda:2", "ERR_INVALID_ARGUMENT", /"cuda:1"/);
  refuse("cuda", "reference", "ERR_INVALID_ARGUMENT", /does not run/);
});

test("auto: the processor, and why a GPU is left alone", async (t) => {
  const folder = sharedFolder();
  const addonPath = join(folder, "noema.cjs");
  writeFileSync(join(folder, "noema-cuda.so"), "");
  writeFileSync(addonPath, `exports.probe = () => ({ usable: false, reason: "the driver is too old" });`);
  t.deepEqual(await automaticBackend("nowhere", { hasGpu: false, takesCuda: true }), { backend: "cpu" });
  const left = await automaticBackend("nowhere", { hasGpu: true, takesCuda: false });
  t.is(left.backend, "cpu");
  t.regex(left.fallbackReason!, /have not yet run on a GPU; device "cuda" asks for them/);
  t.deepEqual(await automaticBackend(addonPath, { hasGpu: true, takesCuda: true }), {
    backend: "cpu",
    fallbackReason: "a GPU is present, but the driver is too old",
  });
  const usable = join(folder, "usable.cjs");
  writeFileSync(usable, "exports.probe = () => ({ usable: true });");
  t.deepEqual(await automaticBackend(usable, { hasGpu: true, takesCuda: true }), { backend: "cuda" });
});

test.serial("where modules are looked for", (t) => {
  const folder = sharedFolder();
  const addonPath = join(folder, "noema.node");
  writeFileSync(addonPath, "");
  t.deepEqual(["cpu", "cuda", "cuda:12", "cuda-emulated", "cuda:", "cudax"].map(moduleOf), [
    undefined,
    "cuda",
    "cuda",
    "cuda-emulated",
    undefined,
    undefined,
  ]);
  t.regex(moduleFile("cuda", addonPath).reason!, /no CUDA module/);
  const beside = join(folder, "noema-cuda.so");
  writeFileSync(beside, "");
  t.deepEqual(moduleFile("cuda", addonPath), { path: beside });
  process.env["NOEMA_CUDA_EMULATED_MODULE"] = join(folder, "absent.so");
  t.teardown(() => delete process.env["NOEMA_CUDA_EMULATED_MODULE"]);
  t.is(
    moduleFile("cuda-emulated", addonPath).reason,
    `NOEMA_CUDA_EMULATED_MODULE names no file: ${join(folder, "absent.so")}`,
  );
});

test.serial("a module that is none: the reason, in the API and on the command line", async (t) => {
  const file = join(sharedFolder(), "noema-cuda.so");
  writeFileSync(file, "not a library");
  process.env["NOEMA_CUDA_MODULE"] = file;
  t.teardown(() => delete process.env["NOEMA_CUDA_MODULE"]);
  await t.throwsAsync(createEngine({ device: { cuda: 1 } }), {
    instanceOf: NoemaError,
    code: "ERR_DEVICE_UNAVAILABLE",
    message: /^cuda:1 cannot be used: the cuda module cannot be opened: /,
  });
  const wanted = ["--device", "cuda"];
  for (const args of [["generate", "x"], ["score", "x", "y"], ["evaluate", "x", "y"], ["bench", "x"], ["train"]]) {
    const { code, error } = await noema(...args, ...wanted);
    t.is(code, 1, args[0]);
    t.regex(error, /^error ERR_DEVICE_UNAVAILABLE: cuda cannot be used: .*\n$/, args[0]);
  }
  const doctor = await noema("doctor");
  t.is(doctor.code, 0);
  t.true(doctor.out.includes(`; module ${file}`));
  t.regex(doctor.out, /cuda +declined: the cuda module cannot be opened/);
});

test("--device: spellings", async (t) => {
  const error = async (device: string) => (await noema("score", "x", "y", "--device", device)).error;
  t.regex(await error("cuad"), /ERR_UNKNOWN_OPTION: unknown device "cuad"; did you mean "cuda"\?/);
  t.regex(await error("cuda:x"), /ERR_UNKNOWN_OPTION: unknown device "cuda:x"/);
  t.regex(await error("cuda:64"), /ERR_INVALID_ARGUMENT: .*from 0 to 63/);
  t.regex((await noema("verify", "x", "--backend", "cuda-emulatd")).error, /did you mean "cuda-emulated"/);
});
