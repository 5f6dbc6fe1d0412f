// clang-format over every C++ file of the repository: node scripts/clang-format.mjs -i, or --dry-run -Werror.

import { execFileSync, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";

const listed = execFileSync("git", [
  "ls-files",
  "--cached",
  "--others",
  "--exclude-standard",
  "native",
  "test",
  "bench",
]);
const sources = listed
  .toString()
  .split("\n")
  .filter((path) => /\.(cpp|h|cu|cuh)$/.test(path) && existsSync(path));
const parameters = ["node_modules/clang-format/index.js", ...process.argv.slice(2), ...sources];
process.exitCode = spawnSync(process.execPath, parameters, { stdio: "inherit" }).status ?? 1;
