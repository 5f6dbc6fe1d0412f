/** scripts/setup.mjs, which has just made this checkout ready. */

import { spawnSync } from "node:child_process";
import test from "ava";
import { root } from "./support/files.js";

const setup = (...flags: string[]) =>
  spawnSync(process.execPath, ["scripts/setup.mjs", ...flags], { cwd: root, encoding: "utf8" });

test("with nothing to do it says nothing", (t) => {
  setup("--test"); // `npm test` has done it; a file may have been edited since
  const { status, stdout, stderr } = setup("--test");
  t.is(stderr, "");
  t.is(stdout, "");
  t.is(status, 0);
});

test("an unknown option is refused before anything is touched", (t) => {
  const { status, stderr } = setup("--tests");
  t.is(status, 1);
  t.is(stderr, "setup: unknown option --tests; known: --test --bench --addon\n");
});
