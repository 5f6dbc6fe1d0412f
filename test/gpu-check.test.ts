/** The one command for a GPU machine, tried on the emulated device: what it writes is read back. */

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { temporaryFolder } from "./lib/temporary.js";
import { root } from "./support/files.js";

test("bench/gpu/check.sh writes its figures as JSON and as a table", async (t) => {
  t.timeout(120_000);
  const out = await temporaryFolder(t);
  const said = execFileSync(
    "sh",
    [join(root, "bench/gpu/check.sh"), "--tree", join(root, "build/Release"), "--out", out, "--quick"],
    {
      env: { ...process.env, NOEMA_CHECK_DEVICE: "cuda-emulated", NOEMA_CHECK_FILTER: "adamw/262144" },
      encoding: "utf8",
    },
  );
  t.regex(said, /^tests: passed/m);
  t.regex(said, /^bench: passed/m);
  const check = JSON.parse(readFileSync(join(out, "check.json"), "utf8"));
  t.true(check.ok);
  t.deepEqual(
    check.cases.map(({ case: name }: { case: string }) => name),
    ["adamw/262144"],
    "one that adds up: it is judged as if it had been called once",
  );
  t.regex(readFileSync(join(out, "check.md"), "utf8"), /^\| adamw\/262144 \| [\d.]+ \| [\d.]+ \|/m);
});
