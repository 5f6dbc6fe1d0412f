import { spawnSync } from "node:child_process";
import test from "ava";
import { createProgram } from "../../lib/cli/program.js";
import { packageVersion } from "../../lib/package.js";
import { noema } from "../support/command.js";
import { root } from "../support/files.js";

test("every command's help has one working example", async (t) => {
  const names = createProgram({ out: process.stdout, error: process.stderr }).commands.map((command) => command.name());
  t.true(names.includes("doctor"));
  for (const parameters of [[], ...names.filter((name) => name !== "help").map((name) => [name])]) {
    const { code, out } = await noema(...parameters, "--help");
    t.is(code, 0);
    t.regex(out, new RegExp(`\\nExample:\\n  \\$ noema ${parameters.join(" ")}`));
  }
});

test("doctor says what is there", async (t) => {
  const { code, out, error } = await noema("doctor");
  t.is(error, "");
  t.is(code, 0);
  t.regex(out, new RegExp(`noema +${packageVersion.replaceAll(".", "\\.")}\n`));
  t.regex(out, /local build, .*noema\.node: .*loaded/);
  t.regex(out, /cpu .*usable.*instruction set/);
  t.regex(out, /cuda +(usable|declined: )/);
});

test("doctor --json is one JSON document", async (t) => {
  const { code, out } = await noema("doctor", "--json");
  t.is(code, 0);
  const report = JSON.parse(out);
  t.is(report.node.version, process.versions.node);
  t.true(report.devices[0].isa.available.includes("portable"));
  t.true(report.devices[0].isa.available.includes(report.devices[0].isa.inUse));
  t.is(report.addon.version, packageVersion);
});

test("a misspelt command or option is answered with the right one, exit code 2", async (t) => {
  t.deepEqual(await noema("docter"), {
    code: 2,
    out: "",
    error: 'error ERR_UNKNOWN_OPTION: unknown command "docter"; did you mean doctor?\n',
  });
  const { code, error } = await noema("doctor", "--jsn");
  t.is(code, 2);
  t.is(error, 'error ERR_UNKNOWN_OPTION: unknown option "--jsn"; did you mean --json?\n');
});

test("with --json an error is JSON", async (t) => {
  const { code, error } = await noema("doctor", "--json", "--other");
  t.is(code, 2);
  t.is(JSON.parse(error).error.code, "ERR_UNKNOWN_OPTION");
});

test("too many arguments, and none at all", async (t) => {
  const many = await noema("doctor", "x");
  t.is(many.code, 2);
  t.regex(many.error, /^error ERR_INVALID_ARGUMENT: too many arguments/);
  const none = await noema();
  t.is(none.code, 2);
  t.regex(none.error, /^Usage: noema/);
});

test("--version", async (t) => {
  t.deepEqual(await noema("--version"), { code: 0, out: `${packageVersion}\n`, error: "" });
});

test("without an addon, doctor reports what it can and fails with one line", (t) => {
  const environment = { ...process.env, NOEMA_ADDON: "absent.node" };
  const parameters = ["--import=tsx", "lib/cli/main.ts", "doctor"];
  const { status, stdout, stderr } = spawnSync(process.execPath, parameters, {
    cwd: root,
    env: environment,
    encoding: "utf8",
  });
  t.is(status, 1);
  t.regex(stdout, /addon .*NOEMA_ADDON, .*absent\.node: .*there is no such file/);
  t.regex(stderr, /^error ERR_ADDON_MISSING: [^\n]*\n$/);
});
