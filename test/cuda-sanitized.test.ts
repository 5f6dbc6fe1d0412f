/** The op tests once more on the emulated kernels under address and undefined-behaviour sanitizers, at small sizes; whole models take too long. */

import { execFile, execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { root } from "./support/files.js";

const build = join(root, "build/Release");
const module = join(build, "noema-cuda-sanitized.so");
const library = join(root, "build/cmake/asan-library.txt");

interface Outcome {
  isPassed: boolean;
  output: string;
}

function run(): Promise<Outcome> {
  const environment = {
    ...process.env,
    NOEMA_CUDA_EMULATED_MODULE: module,
    NOEMA_TEST_DEVICES: "cuda-emulated",
    NOEMA_REQUIRE: "cuda-emulated",
    NOEMA_TEST_LARGEST: "4000",
    LD_PRELOAD: readFileSync(library, "utf8"),
    // Node keeps signal handlers of its own out of it; leaks are of abandoned fibers' frames.
    ASAN_OPTIONS: "detect_leaks=0",
    UBSAN_OPTIONS: "print_stacktrace=1",
  };
  const flags = ["--no-colors", "--test-case-exclude=emulation*,device*,masked*,autoregressive*,flow: *,thought*"];
  return new Promise((resolve) => {
    execFile(join(build, "noema-test"), flags, { env: environment, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      resolve({ isPassed: !error, output: `${stdout}${stderr}${error?.signal ? `\nended by ${error.signal}` : ""}` });
    });
  });
}

test("emulated CUDA kernels under the sanitizers", async (t) => {
  t.timeout(600_000);
  const { isPassed, output } = await run();
  const symbols = execFileSync("nm", ["-D", "--undefined-only", module], { encoding: "utf8" });
  t.regex(symbols, /__asan_report_load/, "the module is instrumented");
  if (!isPassed) t.log(output.slice(-6000));
  t.true(isPassed);
  const assertions = Number(/assertions:\s+(\d+)/.exec(output)?.[1] ?? 0);
  t.true(assertions > 3000, `${assertions} assertions`);
});
