// Runs ava and prints its results as they come; the last line is "N passed, N failed". Arguments go to ava:
//   node scripts/test.mjs test/native.test.ts --match='rms_norm*'

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
const ava = ["node_modules/ava/entrypoints/cli.mjs", "--tap", ...process.argv.slice(2)];
const child = spawn(process.execPath, ava, { cwd: root, stdio: ["ignore", "pipe", "inherit"] });

const counts = { passed: 0, failed: 0, skipped: 0 };

/** One line of TAP (https://testanything.org): a result, or something that belongs to the last result. */
function report(line) {
  const [, not, title, directive] = /^(not )?ok \d+ - (.*?)( # (?:SKIP|TODO).*)?$/.exec(line) ?? [];
  if (title === undefined) {
    if (!/^(TAP version|1\.\.|# (tests|pass|skip|fail)\b|$)/.test(line)) console.log(line.replace(/^# /, "  "));
    return;
  }
  const outcome = directive ? "skipped" : not ? "failed" : "passed";
  counts[outcome] += 1;
  console.log(`${{ passed: "ok     ", failed: "FAILED ", skipped: "skipped" }[outcome]} ${title}`);
}

const lines = createInterface({ input: child.stdout });
lines.on("line", report);
child.on("close", (code, signal) => {
  // ava can fail without a failed test: a file that did not load, a timeout, a crash.
  const isBroken = code !== 0 && counts.failed === 0;
  if (isBroken) console.log(`FAILED  ava ended with ${signal ?? `exit code ${code}`}`);
  const failed = counts.failed + (isBroken ? 1 : 0);
  const skipped = counts.skipped > 0 ? `${counts.skipped} skipped\n` : "";
  console.log(`\n${skipped}${counts.passed} passed, ${failed} failed`);
  process.exitCode = failed > 0 || counts.passed === 0 ? 1 : 0;
});
