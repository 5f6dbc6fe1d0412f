// What nvcc said of every CUDA kernel at the last build, as a table: registers, shared memory, spills, for each target.
//
//   node scripts/kernel-report.mjs [--spills]        (--spills: only kernels that spill; exit code 1 when there is one)

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("../build/cmake/cuda", import.meta.url));

/** "_ZN5noema4cuda12_GLOBAL__N_14rowsE..." is long: the last plain names of it say which kernel it is. */
function shortName(mangled) {
  const names = [];
  for (let rest = mangled.replace(/^_ZN/, ""); ; ) {
    const found = /^(\d+)/.exec(rest);
    if (!found) break;
    const length = Number(found[1]);
    names.push(rest.slice(found[1].length, found[1].length + length));
    rest = rest.slice(found[1].length + length);
  }
  const arguments_ = mangled.replace(/^.*?I((?:L[a-z]\w+?E)+).*$/, "$1");
  const template =
    arguments_ === mangled ? "" : `<${[...arguments_.matchAll(/L[a-z](\d+)E/g)].map((m) => m[1]).join(",")}>`;
  return names.filter((name) => !name.startsWith("_GLOBAL")).at(-1) + template;
}

function kernels(path = folder) {
  if (!existsSync(path)) return [];
  const found = [];
  for (const file of readdirSync(path)
    .filter((name) => name.endsWith(".report"))
    .sort()) {
    const text = readFileSync(join(path, file), "utf8");
    const pattern =
      /Compiling entry function '(\w+)' for '(\w+)'[\s\S]*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads[\s\S]*?Used (\d+) registers(?:.*?(\d+) bytes smem)?/g;
    for (const [, name, target, stack, stores, loads, registers, shared] of text.matchAll(pattern)) {
      const numbers = { stack, stores, loads, registers, shared: shared ?? "0" };
      const values = Object.fromEntries(Object.entries(numbers).map(([key, value]) => [key, Number(value)]));
      found.push({ source: file.replace(/\.o\.report$/, ".cu"), kernel: shortName(name), target, ...values });
    }
  }
  return found;
}

const all = kernels();
if (all.length === 0) {
  process.stderr.write("no reports: the CUDA module has not been built here (node scripts/setup.mjs, with nvcc)\n");
  process.exit(2);
}
const onlySpills = process.argv.includes("--spills");
const shown = onlySpills ? all.filter(({ stores, loads }) => stores + loads > 0) : all;
console.log(
  "| source | kernel | target | registers | static shared | stack | spilled |\n|---|---|---|---|---|---|---|",
);
for (const k of shown)
  console.log(
    `| ${k.source} | ${k.kernel} | ${k.target} | ${k.registers} | ${k.shared} | ${k.stack} | ${k.stores + k.loads} |`,
  );
if (onlySpills && shown.length > 0) process.exitCode = 1;
