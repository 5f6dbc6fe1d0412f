/** The rules of native/README.md and of the layers under lib/, as tests: who may import what, and what may not occur where. */

import { dirname, join, normalize } from "node:path";
import test from "ava";
import { bareCode, definitions, files, linesMatching, read } from "./support/files.js";
import { importCycles, imports } from "./support/imports.js";

const native = files(/^native\/.*\.(cpp|h|def|cu|cuh)$/);

// --- native: the import table ----------------------------------------------------------------------------------------

/** What a folder may include besides itself: folders of native/, and system headers by pattern. */
const mayInclude: Record<string, { folders: string[]; headers: RegExp }> = {
  "include/noema": { folders: ["include/noema"], headers: /^[a-z_]+$/ },
  core: { folders: ["include/noema"], headers: /^([a-z_]+|unistd\.h|sched\.h|dlfcn\.h|sys\/.*|pthread\.h)$/ },
  ops: { folders: ["include/noema", "core"], headers: /^[a-z_]+$/ },
  cpu: { folders: ["include/noema"], headers: /^([a-z_]+|hwy\/.*|cpuid\.h|immintrin\.h|unistd\.h|sys\/.*)$/ },
  "cpu/reference": { folders: ["include/noema"], headers: /^[a-z_]+$/ },
  cuda: { folders: ["include/noema", "cuda/common"], headers: /^([a-z_]+|dlfcn\.h)$/ },
  "cuda/common": { folders: ["include/noema"], headers: /^[a-z_]+$/ },
  "cuda/hardware": { folders: [], headers: /^([a-z_]+|cuda\w*\.h)$/ },
  "cuda/emulation": { folders: [], headers: /^([a-z_]+|unistd\.h|ucontext\.h|sys\/mman\.h|sanitizer\/.*)$/ },
  models: { folders: ["include/noema", "ops", "models"], headers: /^([a-z_]+|unistd\.h|fcntl\.h|sys\/.*)$/ },
  napi: { folders: ["include/noema"], headers: /^([a-z_]+|napi\.h|node_api\.h)$/ },
};

/** Found by include path: in cuda/hardware when nvcc compiles, in cuda/emulation when the C++ compiler does. */
const device = { header: "device.h", rows: ["cuda", "cuda/common"] };

/** The row of the table that a file belongs to: the longest that is a part of its path. */
function rowOf(path: string): string | undefined {
  const inside = path.replace(/^native\//, "");
  const rows = Object.keys(mayInclude).filter((row) => inside.startsWith(`${row}/`));
  return rows.sort((a, b) => b.length - a.length)[0];
}

function resolveInclude(from: string, target: string): string | undefined {
  const places = [
    dirname(from),
    "native",
    "native/include",
    ...(from.startsWith("native/cuda/") ? ["native/cuda"] : []),
  ];
  return places.map((place) => normalize(join(place, target))).find((path) => native.includes(path));
}

function includeFaults(path: string): string[] {
  const row = rowOf(path);
  if (!row) return [`${path} lies in no folder of the import table`];
  const { folders, headers } = mayInclude[row]!;
  return [...read(path).matchAll(/^\s*#\s*include\s+([<"])(.+)[>"]/gm)].flatMap(([, bracket, target = ""]) => {
    const file = resolveInclude(path, target);
    const targetRow = file && rowOf(file);
    if (targetRow) return targetRow === row || folders.includes(targetRow) ? [] : [`${path} includes ${target}`];
    if (target === device.header && device.rows.includes(row)) return [];
    return bracket === "<" && headers.test(target) ? [] : [`${path} includes ${target}`];
  });
}

test("every folder under native includes only what stands below it", (t) => {
  t.deepEqual(native.flatMap(includeFaults), []);
});

test("the contract has no build flags", (t) => {
  const headers = files(/^native\/include\//);
  t.deepEqual(
    headers.flatMap((path) => linesMatching(path, bareCode(read(path)), /^\s*#\s*(if|ifdef|elif)\b/)),
    [],
  );
});

test("models know nothing of devices", (t) => {
  const models = files(/^native\/models\//);
  t.deepEqual(
    models.flatMap((path) => linesMatching(path, bareCode(read(path)), /cuda|avx/i)),
    [],
  );
});

// --- native: what may not occur --------------------------------------------------------------------------------------

test("native code never ends or writes to its host process", (t) => {
  const killers =
    /(?<![.\w]|->)(_?exit|quick_exit|abort|terminate|assert|f?printf|puts|perror)\s*\(|\bstd::(cout|cerr|clog)\b/;
  t.deepEqual(
    native.flatMap((path) => linesMatching(path, bareCode(read(path)), killers)),
    [],
  );
});

test("CUDA's own syntax and assembly occur only where the emulation has something else", (t) => {
  const allowed = /^native\/cuda\/(hardware\/|emulation\/fiber\.cpp$)/;
  const others = native.filter((path) => path.startsWith("native/cuda/") && !allowed.test(path));
  t.deepEqual(
    others.flatMap((path) => linesMatching(path, bareCode(read(path)), /<<<|\b(asm|__asm__)\b/)),
    [],
  );
});

test("code compiled per instruction set has no STL containers", (t) => {
  const perSet = native.filter((path) => /HWY_BEFORE_NAMESPACE|hwy\/foreach_target\.h/.test(read(path)));
  const containers = "vector|string|map|set|unordered_map|unordered_set|deque|list|functional|memory|optional|variant";
  const forbidden = new RegExp(
    `^\\s*#\\s*include\\s+<(${containers})>|\\bstd::(${containers}|function|unique_ptr|shared_ptr)\\s*[<(]`,
  );
  t.deepEqual(
    perSet.flatMap((path) => linesMatching(path, bareCode(read(path)), forbidden)),
    [],
  );
});

// --- the list of ops -------------------------------------------------------------------------------------------------

const ops = definitions("native/include/noema/ops.def").map(([name = "", params = "", ...backends]) => {
  const [cpu, cuda, reference] = backends.map((word) => word === "yes");
  return { name, params, cpu, cuda, reference };
});
/** Their layouts are a backend's own; they are judged through the ops that read them. */
const onlyRearranges = ["matmul_pack"];
/** What other ops compute one by one: a backend may decline them, and that composition is what they are compared with. */
const composed = ["sequential_inverse", "sequential_sweep"];
const joined = (pattern: RegExp) => files(pattern).map(read).join("\n");

test("ops.def has ops, each with its struct in a header that ops/all.h lists", (t) => {
  t.true(ops.length > 20);
  const headers = joined(/^native\/include\/noema\/ops\/\w+\.h$/);
  t.deepEqual(
    ops.filter(({ params }) => !new RegExp(`^struct ${params}\\b`, "m").test(headers)),
    [],
  );
  const all = read("native/include/noema/ops/all.h");
  const names = files(/^native\/include\/noema\/ops\/\w+\.h$/).filter((path) => !path.endsWith("/all.h"));
  t.deepEqual(
    names.filter((path) => !all.includes(`"${path.replace("native/include/", "")}"`)),
    [],
  );
});

test("every op of ops.def says yes or no to three backends, and yes to CUDA where no composition serves", (t) => {
  const faults = definitions("native/include/noema/ops.def").filter(
    (fields) => !/^(yes|no)(,(yes|no)){2}$/.test(fields.slice(2).join()),
  );
  t.deepEqual(faults, []);
  const missing = ops.flatMap(({ name, cuda }) => (cuda || composed.includes(name) ? [] : [name]));
  t.deepEqual(missing, []);
});

test("an op that some backend has is complete: front door, kernels, test", (t) => {
  const doors = joined(/^native\/ops\/.*\.cpp$/);
  const kernels = joined(/^native\/cpu\/[^/]*\.cpp$/);
  const cudaKernels = joined(/^native\/cuda\/[^/]*\.cu$/);
  const tests = joined(/^test\/ops\/.*\.cpp$/);
  const loops = joined(/^native\/cpu\/reference\/.*\.cpp$/);
  const has = (text: string, pattern: string) => new RegExp(pattern).test(text);
  const faults = ops.flatMap(({ name, params, cpu, cuda, reference }) => [
    ...((cpu || reference) && !has(doors, `Status ${name}\\(const ${params}&`) ? [`${name}: no front door`] : []),
    ...((cpu || reference) && !has(tests, `\\b${name}\\b`) ? [`${name}: no test`] : []),
    ...(cpu && !has(kernels, `\\b${name}_entry\\(\\)`) ? [`${name}: no cpu kernel`] : []),
    ...(cuda && !has(cudaKernels, `\\b${name}_entry\\(\\)`) ? [`${name}: no cuda kernel`] : []),
    ...(reference && !has(loops, `\\b${name}\\b`) ? [`${name}: no reference`] : []),
    ...(cpu && !reference && ![...onlyRearranges, ...composed].includes(name)
      ? [`${name}: a kernel that nothing judges`]
      : []),
  ]);
  t.deepEqual(faults, []);
});

// --- lib: layers -----------------------------------------------------------------------------------------------------

/** Lower numbers know nothing of higher ones. A file at lib's top level is the public face, or common ground (layer 0). */
const layers: Record<string, number> = {
  native: 1,
  decoding: 2,
  checkpoint: 2,
  tokenizer: 2,
  training: 2,
  evaluation: 2,
  posterior: 2,
  verification: 2,
  flow: 3,
  thought: 3,
  cli: 4,
  server: 4,
  studio: 4,
};

function layerOf(path: string): number {
  const [first = "", ...rest] = path.replace(/^lib\//, "").split("/");
  if (rest.length > 0) return layers[first] ?? Number.NaN;
  return isCommonGround(path) ? 0 : 3;
}

/** Errors, random numbers and the like: files at the top that import nothing but each other. */
function isCommonGround(path: string, trail: string[] = []): boolean {
  if (trail.includes(path)) return true;
  const below = imports(path).flatMap(({ file, isType }) => (file && !isType ? [file] : []));
  return below.every((file) => dirname(file) === "lib" && isCommonGround(file, [...trail, path]));
}

const lib = files(/^lib\/.*\.ts$/);

test("lib imports downward only", (t) => {
  t.deepEqual(
    lib.filter((path) => Number.isNaN(layerOf(path))),
    [],
    "folders that no layer names",
  );
  // A type alone is gone when the program runs; the addon's mirror may name the types of the layer above.
  const upward = lib.flatMap((path) =>
    imports(path)
      .filter(({ file, isType }) => file && layerOf(file) > layerOf(path) && !(isType && layerOf(file) < 4))
      .map(({ file }) => `${path} imports ${file}`),
  );
  t.deepEqual(upward, []);
});

test("lib has no import cycles", (t) => {
  t.deepEqual(importCycles(lib), []);
});

test("the .node file is known to lib/native alone", (t) => {
  const others = lib.filter((path) => !path.startsWith("lib/native/"));
  t.deepEqual(
    others.flatMap((path) => linesMatching(path, read(path), /\.node["'`]|from "bindings"|process\.dlopen/)),
    [],
  );
});

test("the modules that require() reaches await nothing at their top level", (t) => {
  const awaiting = lib.filter(
    (path) => !path.startsWith("lib/cli/") && /^(const .*= |export .*= )?await /m.test(read(path)),
  );
  t.deepEqual(awaiting, []);
});

// --- every file ------------------------------------------------------------------------------------------------------

test("no source file is longer than 700 lines", (t) => {
  const sources = files(/\.(cpp|h|cu|cuh|def|ts|tsx|mjs|cjs)$/);
  const lengths = sources.map((path) => ({ path, lines: read(path).split("\n").length - 1 }));
  t.deepEqual(
    lengths.filter(({ lines }) => lines > 700),
    [],
  );
});

test("no file names a path of somebody's machine", (t) => {
  const machinePath = /(^|[\s"'`(=:,[])\/(tmp|work|root|home\/\w+|Users\/\w+)\//;
  const texts = files(/./).filter((path) => path !== "package-lock.json" && !read(path).slice(0, 4096).includes("\0"));
  t.deepEqual(
    texts.flatMap((path) => linesMatching(path, read(path), machinePath)),
    [],
  );
});

test("the lock names no registry", (t) => {
  t.deepEqual(linesMatching("package-lock.json", read("package-lock.json"), /"resolved":/), []);
});
