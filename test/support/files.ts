/** The repository as the tests see it: which files belong to it, and what is in them. */

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../../", import.meta.url));

const everything = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], {
  cwd: root,
  encoding: "utf8",
})
  .split("\n")
  .filter((path) => path !== "" && existsSync(join(root, path)));

/** Paths relative to the root, of tracked files and of those that could be. */
export function files(pattern: RegExp): string[] {
  return everything.filter((path) => pattern.test(path));
}

export function read(path: string): string {
  return readFileSync(join(root, path), "utf8");
}

/** The lines of a file that match, as "path:line: text". */
export function linesMatching(path: string, text: string, pattern: RegExp): string[] {
  return text
    .split("\n")
    .flatMap((line, index) => (pattern.test(line) ? [`${path}:${index + 1}: ${line.trim()}`] : []));
}

/** C++ without comments and without what stands in quotes; lines keep their numbers. */
export function bareCode(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\/|\/\/[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'/g, (part) =>
    part.startsWith('"') ? '""' : part.replace(/[^\n]/g, ""),
  );
}

/** The entries of a .def list: NOEMA_X(first, second, ...). */
export function definitions(path: string): string[][] {
  return [...read(path).matchAll(/^NOEMA_\w+\((.*)\)$/gm)].map((match) =>
    (match[1] ?? "").split(/,\s*(?=(?:[^"]*"[^"]*")*[^"]*$)/).map((field) => field.replace(/^"|"$/g, "")),
  );
}
