/** Runs the native test executable, one process per test case, and reports each case as a test of its own. */

import { execFile, execFileSync } from "node:child_process";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import test from "ava";
import { root } from "./support/files.js";

const executable = join(root, "build/Release/noema-test");

interface Outcome {
  isPassed: boolean;
  output: string;
}

function caseNames(): string[] {
  const list = execFileSync(executable, ["--list-test-cases", "--reporters=xml"], { encoding: "utf8" });
  const decode = (text: string) =>
    text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&quot;", '"').replaceAll("&amp;", "&");
  return [...list.matchAll(/<TestCase name="([^"]*)"/g)].map((match) => decode(match[1] ?? ""));
}

/** The executable counts the cases from 1, in the order in which it lists them. */
function runCase(index: number): Promise<Outcome> {
  const range = [`--first=${index}`, `--last=${index}`, "--no-colors"];
  return new Promise((resolve) => {
    execFile(executable, range, { maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      resolve({ isPassed: !error, output: `${stdout}${stderr}${error?.signal ? `\nended by ${error.signal}` : ""}` });
    });
  });
}

let free = availableParallelism();
const waiting: (() => void)[] = [];

/** As many cases at once as there are cores. */
async function inTurn<T>(work: () => Promise<T>): Promise<T> {
  if (free > 0) free -= 1;
  else await new Promise<void>((resolve) => waiting.push(resolve));
  try {
    return await work();
  } finally {
    const next = waiting.shift();
    if (next) next();
    else free += 1;
  }
}

const names = caseNames();
names.forEach((name, i) => {
  test(`${name} [case ${i + 1}]`, async (t) => {
    const { isPassed, output } = await inTurn(() => runCase(i + 1));
    const ran = /assertions:\s+(\d+)/.exec(output)?.[1];
    for (const line of output.match(/^.*\bskip(ped)?\b(?!\s*\|?\s*$).*$/gim) ?? []) {
      if (!line.startsWith("[doctest]")) t.log(line);
    }
    if (!isPassed) t.log(output);
    t.true(isPassed, `the native test case failed after ${ran ?? "an unknown number of"} assertions`);
  });
});
