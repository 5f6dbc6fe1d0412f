/** What the dynamic linker here offers, and what a binary asks of it: for messages that say why one could not be opened. */

import { readFileSync } from "node:fs";

interface Report {
  header: { glibcVersionRuntime?: string };
  sharedObjects: string[];
}

function report(): Report {
  // The report would otherwise list the network interfaces, with name lookups that can take seconds.
  Object.assign(process.report, { excludeNetwork: true });
  return process.report.getReport() as unknown as Report;
}

/** For instance "glibc 2.36" or "musl"; undefined where the question makes no sense. */
export function libcHere(): string | undefined {
  if (process.platform !== "linux") return undefined;
  const version = report().header.glibcVersionRuntime;
  return version ? `glibc ${version}` : "musl";
}

/** The newest glibc version that a binary's symbols name, for instance "glibc 2.34". */
export function libcNeeded(path: string): string | undefined {
  const versions = [...textOf(path).matchAll(/GLIBC_(\d+)\.(\d+)/g)].map((match) => [
    Number(match[1]),
    Number(match[2]),
  ]);
  versions.sort(([a0 = 0, a1 = 0], [b0 = 0, b1 = 0]) => b0 - a0 || b1 - a1);
  return versions[0] && `glibc ${versions[0].join(".")}`;
}

/** The files among those loaded into this process whose name starts with `prefix`. */
export function loadedLibraries(prefix: string): string[] {
  return report().sharedObjects.filter((path) => path.slice(path.lastIndexOf("/") + 1).startsWith(prefix));
}

function textOf(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return "";
  }
}
