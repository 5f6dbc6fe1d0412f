// Makes a checkout ready to use: system packages, node_modules, the native build, dist/. Needs only Node, npm and git;
// does nothing, and quickly, when nothing has changed. Where nvcc of CUDA 12 or newer is (NVCC=path, PATH, CUDA_HOME,
// /usr/local/cuda), the CUDA module is built too; NVCC= (empty) leaves it out. Every stamp lies inside the folder that it describes and is
// written last, by rename: a run that was cut short leaves work to do, never a folder that only looks finished.
//
//   node scripts/setup.mjs            packages, addon, CUDA module, dist/
//   node scripts/setup.mjs --test     the native test executable and the emulated CUDA modules as well
//   node scripts/setup.mjs --no-cuda  without the CUDA module, which takes minutes on few cores (npm run demo)
//   node scripts/setup.mjs --bench    the native bench executable as well
//   node scripts/setup.mjs --addon    only addon and module, with whatever node_modules there are (binding.gyp, installed packages)

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { delimiter, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const within = (...parts) => join(root, ...parts);
const cmakeFolder = within("build", "cmake");
const outputFolder = within("build", "Release");

class SetupError extends Error {}

function say(text) {
  process.stderr.write(`setup: ${text}\n`);
}

// --- fingerprints and stamps ---------------------------------------------------------------------------------------

const hash = (text) => createHash("sha256").update(text).digest("hex");

function* filesUnder(path) {
  if (!existsSync(path)) return;
  if (!statSync(path).isDirectory()) {
    yield path;
    return;
  }
  for (const entry of readdirSync(path).sort()) yield* filesUnder(join(path, entry));
}

/** Changes when a file under the paths is added, removed or written; reads no contents, so it costs milliseconds. */
function fingerprint(...paths) {
  const lines = [];
  for (const path of paths) {
    for (const file of filesUnder(within(path))) {
      const { size, mtimeMs } = statSync(file);
      lines.push(`${relative(root, file)} ${size} ${mtimeMs}`);
    }
  }
  return hash(lines.join("\n"));
}

function readJson(path) {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return undefined;
  }
}

function writeJson(path, value) {
  const temporary = `${path}.${process.pid}`;
  writeFileSync(temporary, `${JSON.stringify(value)}\n`);
  renameSync(temporary, path);
}

// --- running things --------------------------------------------------------------------------------------------------

function which(program) {
  return (process.env.PATH ?? "").split(delimiter).some((folder) => folder !== "" && existsSync(join(folder, program)));
}

/** Runs a program; its output goes to stderr, because stdout belongs to whatever comes after setup. */
function run(what, program, parameters, environment = {}) {
  const started = performance.now();
  say(`${what} ...`);
  const { status, signal, error } = spawnSync(program, parameters, {
    cwd: root,
    stdio: ["ignore", 2, 2],
    env: { ...process.env, ...environment },
  });
  if (error) throw new SetupError(`${what}: ${error.message}`);
  if (status !== 0)
    throw new SetupError(`${what} failed (${signal ?? `exit code ${status}`}): ${program} ${parameters.join(" ")}`);
  say(`${what}: ${((performance.now() - started) / 1000).toFixed(1)} s`);
}

function succeeds(program, parameters, input = "") {
  return spawnSync(program, parameters, { input, stdio: ["pipe", "ignore", "ignore"] }).status === 0;
}

// --- step 1: Node ----------------------------------------------------------------------------------------------------

function checkNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return;
  throw new SetupError(
    `Node ${process.versions.node} is too old; noema needs 20.19 or newer (https://nodejs.org/en/download)`,
  );
}

// --- step 2: system packages -----------------------------------------------------------------------------------------

function compiler() {
  if (process.env.CXX) return process.env.CXX;
  return ["c++", "g++", "clang++"].find(which);
}

const preprocess = ["-std=c++20", "-E", "-x", "c++", "-"];
const hasHeader = (header) => succeeds(compiler(), preprocess, `#include <${header}>\n`);

function cmakeVersion() {
  const text = spawnSync("cmake", ["--version"], { encoding: "utf8" }).stdout ?? "";
  const [, major, minor] = /version (\d+)\.(\d+)/.exec(text) ?? [0, 0, 0];
  return { text: `${major}.${minor}`, enough: major > 3 || (Number(major) === 3 && minor >= 22) };
}

function missingPackages(needsDoctest) {
  const missing = [];
  if (!compiler()) missing.push("g++");
  if (!which("cmake")) missing.push("cmake");
  if (!which("ninja") && !which("make")) missing.push("ninja-build");
  if (!compiler() || !hasHeader("hwy/highway.h")) missing.push("libhwy-dev");
  if (needsDoctest && (!compiler() || !hasHeader("doctest/doctest.h"))) missing.push("doctest-dev");
  return missing;
}

function ensureSystemPackages(needsDoctest) {
  const missing = missingPackages(needsDoctest);
  if (missing.length > 0) {
    const command = `apt-get install -y --no-install-recommends ${missing.join(" ")}`;
    const isRoot = process.getuid?.() === 0;
    const prefix = isRoot ? [] : ["sudo", "-n"];
    if (!which("apt-get") || (!isRoot && !(which("sudo") && succeeds("sudo", ["-n", "true"])))) {
      throw new SetupError(
        `these system packages are needed (Debian's names): ${missing.join(" ")}. Run this, then try again:\n` +
          `    sudo apt-get update && sudo ${command}`,
      );
    }
    const apt = [...prefix, "env", "DEBIAN_FRONTEND=noninteractive"];
    run("updating apt's lists", apt[0], [...apt.slice(1), "apt-get", "update", "-qq"]);
    run(`installing ${missing.join(" ")}`, apt[0], [...apt.slice(1), ...command.split(" "), "-qq"]);
  }
  const isRecent = "#include <hwy/highway.h>\n#if HWY_MAJOR < 1\n#error old\n#endif\n";
  if (!succeeds(compiler(), preprocess, isRecent)) {
    throw new SetupError(
      "the system's Google Highway is older than 1.0. Run this, then try again:\n" +
        "    git clone --depth 1 --branch 1.2.0 https://github.com/google/highway && cmake -S highway -B highway/build " +
        "-DBUILD_SHARED_LIBS=ON -DHWY_ENABLE_TESTS=OFF -DHWY_ENABLE_EXAMPLES=OFF && sudo cmake --build highway/build --target install",
    );
  }
  const version = cmakeVersion();
  if (!version.enough)
    throw new SetupError(`cmake ${version.text} is too old; 3.22 or newer is needed (pip install cmake has one)`);
}

// --- step 3: node_modules --------------------------------------------------------------------------------------------

/** npm keeps what it installed in node_modules/.package-lock.json; packages for other platforms are not in it. */
function modulesMatchLock() {
  const installed = readJson(within("node_modules", ".package-lock.json"))?.packages;
  const wanted = readJson(within("package-lock.json"))?.packages;
  if (!installed || !wanted) return false;
  return Object.entries(wanted).every(([path, { version, integrity, optional, peer }]) => {
    if (path === "") return true;
    const there = installed[path];
    return there ? there.version === version && there.integrity === integrity : Boolean(optional || peer);
  });
}

function ensureModules() {
  const stamp = within("node_modules", ".noema-setup");
  const key = hash(readFileSync(within("package-lock.json"), "utf8") + process.platform + process.arch);
  if (readJson(stamp) === key) return;
  if (!modulesMatchLock()) {
    // `npm ci` would follow a link and empty another checkout's folder.
    if (lstatSync(within("node_modules"), { throwIfNoEntry: false })?.isSymbolicLink())
      unlinkSync(within("node_modules"));
    const npm = process.env.npm_execpath?.endsWith(".js") ? [process.execPath, process.env.npm_execpath] : ["npm"];
    // No package here needs its install script, and npm 11 warns about each.
    run("npm ci", npm[0], [...npm.slice(1), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
  }
  writeJson(stamp, key);
}

// --- step 4: the native build ----------------------------------------------------------------------------------------

/** What each target makes, and from what; native/ is part of all of them. */
const targets = {
  noema: { files: ["noema.node"], sources: [] },
  "noema-cuda": { files: ["noema-cuda.so"], sources: [] },
  "noema-test": {
    files: ["noema-test", "noema-cuda-emulated.so"],
    sources: ["test/native", "test/ops", "test/models", "test/cuda"],
  },
  "noema-cuda-sanitized": { files: ["noema-cuda-sanitized.so"], sources: [] },
  "noema-bench": { files: ["noema-bench"], sources: ["bench/ops", "bench/models", "test/native"] },
};

const oldestCuda = 12; // C++20, and the code of compute capability 9.0

/** The compiler of the CUDA module, where there is one; an older one is as good as none. */
function nvcc() {
  if (process.platform !== "linux") return undefined;
  const folders = (process.env.PATH ?? "").split(delimiter).filter((folder) => folder !== "");
  if (process.env.CUDA_HOME) folders.push(join(process.env.CUDA_HOME, "bin"));
  const places = [...folders, "/usr/local/cuda/bin"].map((folder) => join(folder, "nvcc"));
  const path = process.env.NVCC ?? places.find((place) => existsSync(place));
  if (!path) return undefined;
  const { stdout, error } = spawnSync(path, ["--version"], { encoding: "utf8" });
  const version = /release (\d+)\.\d+/.exec(stdout ?? "");
  if (!version) throw new SetupError(`${path} --version: ${error?.message ?? (stdout || "no answer")}`);
  return Number(version[1]) >= oldestCuda ? path : undefined;
}

function cmakeJs() {
  try {
    return join(dirname(createRequire(within("package.json")).resolve("cmake-js/package.json")), "bin", "cmake-js");
  } catch {
    throw new SetupError(
      "cmake-js is not installed. Run this, then try again:\n    npm install cmake-js@8 node-addon-api@8",
    );
  }
}

function cmakeOptions(cudaCompiler) {
  const options = {
    CMAKE_LIBRARY_OUTPUT_DIRECTORY: outputFolder,
    CMAKE_RUNTIME_OUTPUT_DIRECTORY: outputFolder,
    NOEMA_TESTS: existsSync(within("test", "native")) ? "ON" : "OFF",
    NVCC: cudaCompiler ?? "OFF",
  };
  if (which("ccache")) options.CMAKE_CXX_COMPILER_LAUNCHER = "ccache";
  return Object.entries(options).map(([name, value]) => `--CD${name}=${value}`);
}

/** Differs when CMake's cache can no longer be trusted: another place, compiler or generator. */
function configurationKey(options) {
  return hash(
    JSON.stringify([root, process.arch, options, compiler() ?? "", which("ninja"), process.env.CXXFLAGS ?? ""]),
  );
}

function targetPrint(target) {
  return fingerprint("CMakeLists.txt", "cmake", "package.json", "native", ...targets[target].sources);
}

function isBuilt(target, state) {
  const isThere = targets[target].files.every((file) => existsSync(join(outputFolder, file)));
  return isThere && state?.built?.[target] === targetPrint(target);
}

function ensureNative(asked, withCuda) {
  const cudaCompiler = nvcc(); // also when its target is not wanted: the configuration stays the same
  const wanted = withCuda && cudaCompiler ? [...asked, "noema-cuda"] : asked;
  const stamp = join(cmakeFolder, ".noema-setup");
  let state = readJson(stamp);
  const key = () => configurationKey(cmakeOptions(cudaCompiler));
  const stale = wanted.filter((target) => !isBuilt(target, state));
  if (stale.length === 0 && state.key === key()) return;

  if (state?.key !== key() || stale.some((target) => !state.built[target])) {
    ensureSystemPackages(wanted.includes("noema-test"));
  }
  const tool = cmakeJs();
  const call = (command, ...rest) => [tool, command, "--log-level", "error", "--out", cmakeFolder, ...rest];
  // Ninja may have been installed just now, so the key is asked for again.
  if (state?.key !== key()) {
    rmSync(cmakeFolder, { recursive: true, force: true });
    run("configuring the native build", process.execPath, call("configure", ...cmakeOptions(cudaCompiler)));
    state = { key: key(), built: {} };
    writeJson(stamp, state);
  }
  // By themselves, so that a failing nvcc leaves a whole addon behind.
  for (const group of [asked, wanted.filter((target) => !asked.includes(target))]) {
    if (group.every((target) => isBuilt(target, state))) continue;
    const prints = Object.fromEntries(group.map((target) => [target, targetPrint(target)]));
    build(group, call);
    state.built = { ...state.built, ...prints };
    writeJson(stamp, state);
  }
}

function build(group, call) {
  const cores = availableParallelism();
  const what = `building ${group.join(", ")} (${cores} ${cores === 1 ? "core" : "cores"})`;
  run(what, process.execPath, call("build", "--parallel", cores, "--", "--target", ...group), {
    CCACHE_BASEDIR: process.env.CCACHE_BASEDIR ?? root,
    CCACHE_NOHASHDIR: process.env.CCACHE_NOHASHDIR ?? "1",
  });
}

// --- step 5: dist/ ---------------------------------------------------------------------------------------------------

/**
 * One set of ES modules, so that both kinds of caller share one addon and one NoemaError. `require("noema")` gets them
 * through dist/cjs/index.js (Node requires ES modules from 20.19 on); the declarations are there twice, because a
 * compiler reads their kind from the nearest package.json.
 */
function addCommonJs(folder) {
  const cjs = join(folder, "cjs");
  for (const file of filesUnder(folder)) {
    if (file.endsWith(".d.ts")) cpSync(file, join(cjs, relative(folder, file)));
  }
  writeFileSync(join(cjs, "package.json"), '{ "type": "commonjs" }\n');
  writeFileSync(join(cjs, "index.js"), '"use strict";\nmodule.exports = require("../index.js");\n');
}

function ensureDist() {
  const stamp = within("dist", ".noema-setup");
  const key = fingerprint(
    "lib",
    "tsconfig.json",
    "tsconfig.build.json",
    "package.json",
    "package-lock.json",
    "scripts/setup.mjs",
  );
  if (readJson(stamp) === key) return;
  const fresh = within(".cache", `dist-${process.pid}`);
  try {
    mkdirSync(dirname(fresh), { recursive: true });
    const compiler = within("node_modules", "typescript", "bin", "tsc");
    run("compiling TypeScript", process.execPath, [compiler, "-p", "tsconfig.build.json", "--outDir", fresh]);
    addCommonJs(fresh);
    writeJson(join(fresh, ".noema-setup"), key);
    rmSync(within("dist"), { recursive: true, force: true });
    renameSync(fresh, within("dist"));
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
}

// --- one at a time ---------------------------------------------------------------------------------------------------

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

/** Two setups in one checkout take turns; the lock of a process that died is taken over. */
function withLock(work) {
  const lock = within(".cache", "setup.lock");
  mkdirSync(dirname(lock), { recursive: true });
  for (let waits = 0; ; ++waits) {
    try {
      writeFileSync(lock, String(process.pid), { flag: "wx" });
      break;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
      const owner = Number(readFileSync(lock, "utf8"));
      if (owner && !isAlive(owner)) rmSync(lock, { force: true });
      if (waits === 0) say(`waiting for another setup (process ${owner})`);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
    }
  }
  try {
    return work();
  } finally {
    unlinkSync(lock);
  }
}

const knownFlags = ["--test", "--bench", "--addon", "--no-cuda"];

function main(flags) {
  const unknown = flags.find((flag) => !knownFlags.includes(flag));
  if (unknown) throw new SetupError(`unknown option ${unknown}; known: ${knownFlags.join(" ")}`);
  const wanted = ["noema"];
  // The benches, too: the check for GPUs is tried by a test, and runs them.
  if (flags.includes("--test")) wanted.push("noema-test", "noema-cuda-sanitized", "noema-bench");
  else if (flags.includes("--bench")) wanted.push("noema-bench");
  checkNode();
  withLock(() => {
    if (!flags.includes("--addon")) ensureModules();
    ensureNative(wanted, !flags.includes("--no-cuda"));
    if (!flags.includes("--addon")) ensureDist();
  });
}

try {
  main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  process.stderr.write(`setup: ${error.message}\n`);
  process.exitCode = 1;
}
