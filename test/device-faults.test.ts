/** Devices that are too small or break while they work, by the emulation's switches; each needs a process of its own. */

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { root } from "./support/files.js";

const executable = join(root, "build/Release/noema-test");

function runCase(name: string, environment: Record<string, string>): Promise<{ isPassed: boolean; output: string }> {
  const env = { ...process.env, ...environment };
  return new Promise((resolve) => {
    execFile(
      executable,
      [`--test-case=${name}`, "--no-colors"],
      { env, maxBuffer: 1 << 26 },
      (error, stdout, stderr) => {
        resolve({ isPassed: !error, output: `${stdout}${stderr}${error?.signal ? `\nended by ${error.signal}` : ""}` });
      },
    );
  });
}

const declined = [
  [{ NOEMA_EMULATED_DRIVER: "0" }, /no NVIDIA driver is installed/],
  [
    { NOEMA_EMULATED_DRIVER: "12080" },
    /driver offers CUDA 12\.8, this build of noema needs 13\.0 or newer \(driver 580\)/,
  ],
  [{ NOEMA_EMULATED_DEVICES: "0" }, /no NVIDIA GPU is visible/],
  [{ NOEMA_EMULATED_CAPABILITY: "75" }, /compute capability 7\.5, noema needs 8\.0/],
  [{ NOEMA_REQUIRE: "cuda-emulated:3" }, /there is no GPU 3: this machine has 1/],
  [{ NOEMA_CUDA_EMULATED_MODULE: "/nowhere/at-all.so" }, /has no cuda-emulated module/],
] as const;

for (const [environment, reason] of declined) {
  test(`declined with its reason: ${JSON.stringify(environment)}`, async (t) => {
    const { isPassed, output } = await runCase("none", { NOEMA_REQUIRE: "cuda-emulated", ...environment });
    t.false(isPassed);
    t.regex(output, reason);
  });
}

const faults = [
  ["device faults: out of memory*", { NOEMA_EMULATED_MEMORY: "3000000" }],
  ["device faults: a device that is lost*", { NOEMA_EMULATED_LOSS: "40" }],
] as const;

for (const [name, environment] of faults) {
  test(`${name} ${JSON.stringify(environment)}`, async (t) => {
    t.true(existsSync(join(root, "build/Release/noema-cuda-emulated.so")));
    const { isPassed, output } = await runCase(name, environment);
    if (!isPassed) t.log(output);
    t.true(isPassed);
    t.regex(output, /assertions:\s+[1-9]/, "the case ran");
  });
}
