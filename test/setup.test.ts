/** scripts/setup.mjs, which has just made this checkout ready. */

import { spawnSync } from "node:child_process";
import { cpSync, existsSync, lstatSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
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
  t.is(stderr, "setup: unknown option --tests; known: --test --bench --addon --no-cuda\n");
});

test("another checkout's node_modules behind a link are left alone", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "noema-setup-"));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const [theirs, mine] = [join(folder, "theirs"), join(folder, "mine")];
  for (const path of [join(theirs, "package"), join(mine, "scripts"), join(mine, "dep")])
    mkdirSync(path, { recursive: true });
  cpSync(join(root, "scripts/setup.mjs"), join(mine, "scripts/setup.mjs"));
  const json = (path: string, value: object) => writeFileSync(join(mine, path), JSON.stringify(value));
  const me = { name: "mine", version: "1.0.0", dependencies: { dep: "file:dep" } };
  const dep = { name: "dep", version: "1.0.0" };
  json("package.json", me);
  json("dep/package.json", dep);
  json("package-lock.json", {
    ...me,
    lockfileVersion: 3,
    packages: { "": me, dep, "node_modules/dep": { resolved: "dep", link: true } },
  });
  symlinkSync(theirs, join(mine, "node_modules"));

  const { status, stderr } = spawnSync(process.execPath, ["scripts/setup.mjs"], { cwd: mine, encoding: "utf8" });
  t.regex(stderr, /cmake-js is not installed/, "the step after node_modules");
  t.is(status, 1);
  t.true(existsSync(join(theirs, "package")));
  t.false(lstatSync(join(mine, "node_modules")).isSymbolicLink());
});
