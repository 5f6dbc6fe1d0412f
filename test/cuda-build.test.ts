/** What the CUDA compiler said of the kernels at the build, where there is one: none may spill its registers to memory. */

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { root } from "./support/files.js";

const isBuilt = existsSync(join(root, "build/Release/noema-cuda.so"));

/** Rows of the script's table, without its two lines of heading. */
function report(...flags: string[]): string[] {
  const script = join(root, "scripts/kernel-report.mjs");
  const { stdout } = spawnSync(process.execPath, [script, ...flags], { encoding: "utf8" });
  return stdout.trim().split("\n").slice(2);
}

test("no CUDA kernel spills, for any target", (t) => {
  if (!isBuilt) {
    t.log("skipped: this build has no CUDA module (nvcc is not here)");
    t.pass();
    return;
  }
  const all = report();
  for (const target of ["sm_80", "sm_89", "sm_90a"]) {
    t.true(all.filter((row) => row.includes(`| ${target} |`)).length > 40, target);
  }
  t.deepEqual(report("--spills"), []);
});
