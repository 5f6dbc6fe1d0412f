import { spawnSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { sayable } from "../../lib/cli/command.js";
import { createProgram } from "../../lib/cli/program.js";
import { packageVersion } from "../../lib/package.js";
import { noema } from "../support/command.js";
import { writeFake } from "../support/fake-addon.js";
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

test("with --json an error is JSON, whatever its details hold", async (t) => {
  const seed = "99999999999999999999999";
  const folder = await writeFake();
  const refused = async (...parameters: string[]) => {
    const { code, error } = await noema(...parameters, "--json");
    t.is(code, 1);
    return JSON.parse(error).error;
  };
  t.like(await refused("generate", folder, "--prompt", "Once", "--seed", seed), {
    code: "ERR_INVALID_ARGUMENT",
    details: { seed },
  });
  const config = join(folder, "config.json");
  const nested = "[".repeat(200_000) + "]".repeat(200_000);
  await writeFile(config, (await readFile(config, "utf8")).replace(/"block_type": "\w+"/, `"block_type": ${nested}`));
  const { code, details } = await refused("inspect", folder);
  t.is(code, "ERR_BAD_CHECKPOINT");
  t.is(details.key, "block_type");
});

test("error details become JSON: numbers that it lacks, cycles, depths, lists", (t) => {
  const cyclic: Record<string, unknown> = { a: [Float32Array.of(1, 2), Number.NaN, 2n ** 70n, Symbol("s"), () => 1] };
  cyclic["self"] = cyclic;
  const told = JSON.parse(JSON.stringify(sayable(cyclic)));
  t.deepEqual(told.a, [[1, 2], "NaN", String(2n ** 70n), "Symbol(s)", "a function"]);
  t.deepEqual(told.self.self.a, told.a);
  t.deepEqual(sayable({ toJSON: 1n, none: undefined, null: null }), { toJSON: "1", none: undefined, null: null });
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
