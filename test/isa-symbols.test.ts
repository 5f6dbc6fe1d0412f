/**
 * A weak symbol (an inline function, a template's instance) exists once per process: the linker keeps any one copy. A copy
 * compiled for AVX-512 must therefore never be weak, or it could replace the portable one on a machine that lacks AVX-512.
 */

import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { root } from "./support/files.js";

const objects = join(root, "build/cmake/CMakeFiles/noema_engine.dir/native/cpu");
// Highway's namespaces N_AVX2, N_AVX3, ... are part of a name: such symbols differ from the portable ones.
const isOfOneTarget = /\dN_(AVX|SSE|EMU|SCALAR)/;

/** Weak functions of an object file that use AVX and are not named for one instruction set. */
function hazards(object: string): string[] {
  const symbols = execFileSync("nm", ["--defined-only", object], { encoding: "utf8", maxBuffer: 1 << 28 });
  const weak = new Set([...symbols.matchAll(/^\S* [WVu] (\S+)$/gm)].map((match) => match[1] ?? ""));
  const risky = [...weak].filter((name) => !isOfOneTarget.test(name));
  if (risky.length === 0) return [];
  const code = execFileSync("objdump", ["-d", "--no-show-raw-insn", object], { encoding: "utf8", maxBuffer: 1 << 28 });
  const bodies = new Map(
    code.split(/^[0-9a-f]+ <(?=[^>]+>:$)/m).map((body) => [body.slice(0, body.indexOf(">:")), body]),
  );
  return risky.filter((name) => /%[yz]mm|\tv[a-z]+.*%xmm/.test(bodies.get(name) ?? ""));
}

function* objectFiles(folder: string): Generator<string> {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* objectFiles(path);
    else if (path.endsWith(".o")) yield path;
  }
}

const onX64 = process.arch === "x64" && existsSync(objects) ? test : test.skip;

onX64("no weak function of the kernels uses AVX", (t) => {
  const found = [...objectFiles(objects)].flatMap((object) => hazards(object).map((name) => `${object}: ${name}`));
  t.deepEqual(found, []);
});

onX64("the check sees a weak function that uses AVX", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "noema-weak-"));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const source =
    '[[gnu::target("avx2"), gnu::noinline]] inline void twice(float* x) { for (int i = 0; i < 64; ++i) x[i] *= 2; }\n';
  writeFileSync(join(folder, "a.cpp"), `${source}void use(float* x) { twice(x); }\n`);
  execFileSync("c++", ["-O3", "-c", join(folder, "a.cpp"), "-o", join(folder, "a.o")]);
  t.is(hazards(join(folder, "a.o")).length, 1);
});
