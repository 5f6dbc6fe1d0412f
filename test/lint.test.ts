/** Formatting, lint and types, by the tools that `npm run lint` runs. */

import { execFile } from "node:child_process";
import { join } from "node:path";
import test from "ava";
import { files, root } from "./support/files.js";

function runTool(script: string, ...parameters: string[]): Promise<string> {
  const path = join(root, "node_modules", script);
  return new Promise((resolve) => {
    execFile(process.execPath, [path, ...parameters], { cwd: root, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      resolve(error ? `${stdout}${stderr}` || error.message : "");
    });
  });
}

test("biome", async (t) => {
  t.is(await runTool("@biomejs/biome/bin/biome", "check", "--colors=off", "."), "");
});

test("types", async (t) => {
  t.is(await runTool("typescript/bin/tsc", "--pretty", "false"), "");
});

test("clang-format", async (t) => {
  const sources = files(/^(native|test|bench)\/.*\.(cpp|h|cu|cuh)$/);
  t.is(await runTool("clang-format/index.js", "--dry-run", "-Werror", ...sources), "");
});
