/** The package as npm would publish it: packed, checked by publint and attw, then used and compiled against by a stranger. */

import { execFile } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import test from "ava";
import { read, root } from "./support/files.js";

const execute = promisify(execFile);
const manifest = JSON.parse(read("package.json"));
const stranger = mkdtempSync(join(tmpdir(), "noema-package-"));
const tarball = join(stranger, `noema-${manifest.version}.tgz`);

/** Runs a program in the stranger's folder; a failure carries what the program printed. */
async function run(program: string, ...parameters: string[]): Promise<string> {
  try {
    return (await execute(program, parameters, { cwd: stranger, maxBuffer: 1 << 26 })).stdout;
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    throw new Error(`${program} ${parameters.join(" ")}\n${stdout}${stderr}`);
  }
}

const node = (script: string, ...parameters: string[]) => run(process.execPath, join(root, script), ...parameters);

/** What `npm install` would do, without asking a registry. */
async function install(): Promise<void> {
  await run("tar", "-xzf", tarball);
  mkdirSync(join(stranger, "node_modules"));
  cpSync(join(stranger, "package"), join(stranger, "node_modules", "noema"), { recursive: true });
  for (const name of [...Object.keys(manifest.dependencies), "@types/node", "undici-types"]) {
    const link = join(stranger, "node_modules", name);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(join(root, "node_modules", name), link);
  }
  cpSync(join(root, "test/types"), stranger, { recursive: true });
}

test.before(async () => {
  await execute("npm", ["pack", "--ignore-scripts", "--silent", "--pack-destination", stranger], { cwd: root });
  await install();
});
test.after.always(() => rmSync(stranger, { recursive: true, force: true }));

test("publint", async (t) => {
  await t.notThrowsAsync(node("node_modules/publint/src/cli.js", tarball, "--strict"));
});

test("are the types wrong?", async (t) => {
  await t.notThrowsAsync(node("node_modules/@arethetypeswrong/cli/dist/index.js", tarball, "--no-color"));
});

for (const [module, resolution, ...consumers] of [
  ["nodenext", "nodenext", "module.mts", "common.cts"],
  ["node16", "node16", "module.mts", "common.cts"],
  ["esnext", "bundler", "module.mts"],
] as const) {
  test(`a consumer compiles with module ${module}`, async (t) => {
    const options = [
      "--strict",
      "--noEmit",
      "--target",
      "es2023",
      "--lib",
      "es2023,esnext.disposable",
      "--types",
      "node",
    ];
    const kind = ["--module", module, "--moduleResolution", resolution];
    await t.notThrowsAsync(
      node("node_modules/typescript/bin/tsc", "--ignoreConfig", ...options, ...kind, ...consumers),
    );
  });
}

test("import and require share one NoemaError, without a warning", async (t) => {
  const both = `
    const required = require("noema");
    process.on("warning", (warning) => { throw warning; });
    import("noema").then((imported) => console.log(imported.NoemaError === required.NoemaError));`;
  writeFileSync(join(stranger, "both.cjs"), both);
  t.is(await run(process.execPath, "both.cjs"), "true\n");
});

test("the command runs where it is installed", async (t) => {
  const out = await run(process.execPath, join("node_modules", "noema", manifest.bin.noema), "--version");
  t.is(out, `${manifest.version}\n`);
});

test("the package carries what building the addon takes, and nothing that runs at installation", async (t) => {
  const installed = JSON.parse(readFileSync(join(stranger, "package", "package.json"), "utf8"));
  t.is(installed.gypfile, false);
  t.deepEqual(
    Object.keys(installed.scripts).filter((name) => /install|prepare/.test(name)),
    [],
  );
  const list = (await run("tar", "-tzf", tarball)).split("\n");
  for (const path of [
    "CMakeLists.txt",
    "cmake/cuda.cmake",
    "native/cuda/backend.cu",
    "scripts/setup.mjs",
    "native/include/noema/ops.def",
    "LICENSE",
    "models/tales-masked/tokenizer.json",
  ]) {
    t.true(list.includes(`package/${path}`), path);
  }
  t.deepEqual(
    list.filter((path) => /\.noema-setup|\.test\.|node_modules/.test(path)),
    [],
  );
  // A lock file does not keep "gypfile": from it, npm would run `node-gyp rebuild` wherever there is a binding.gyp.
  t.false(list.includes("package/binding.gyp"));
});

test("npm installs the package, also from a lock file, and builds nothing", async (t) => {
  const consumer = join(stranger, "consumer");
  // Its dependencies are a registry's to give, and its models only take time.
  const slim = join(consumer, "package");
  cpSync(join(stranger, "package"), slim, {
    recursive: true,
    filter: (path) => path !== join(stranger, "package", "models"),
  });
  writeFileSync(join(slim, "package.json"), JSON.stringify({ ...manifest, dependencies: {}, devDependencies: {} }));
  await run("tar", "-czf", join(consumer, "noema.tgz"), "-C", consumer, "package");
  writeFileSync(join(consumer, "package.json"), '{ "private": true }');
  const npm = (...words: string[]) =>
    run("npm", "--prefix", consumer, ...words, "--offline", "--no-audit", "--no-fund", "--ignore-scripts=false");
  await npm("install", join(consumer, "noema.tgz"));
  await npm("ci");
  await npm("rebuild");
  const installed = join(consumer, "node_modules", "noema");
  t.true(existsSync(join(installed, "package.json")));
  t.false(existsSync(join(installed, "build")));
});
