/**
 * Finds, probes and opens the addon: an explicit path (NOEMA_ADDON), else the platform's package, else the local build.
 * An explicit path never falls back to another binary; the other two are tried in turn.
 */

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative, resolve } from "node:path";
import resolveBindings from "bindings";
import { NoemaError } from "../errors.js";
import { packageRoot, packageVersion } from "../package.js";
import type { Addon } from "./addon.js";
import { libcHere, libcNeeded } from "./libc.js";

const require = createRequire(import.meta.url);
// Its types leave out `path`, which makes it answer with where the file is instead of opening it.
const findBinary = resolveBindings as unknown as (options: resolveBindings.Options & { path: true }) => string;

/** One place that was looked at. `reason` says why it was declined; absent when it was opened. */
export interface Attempt {
  source: string;
  path?: string;
  reason?: string;
}

export interface LoadedAddon {
  addon: Addon;
  path: string;
  /** Everything tried, in order; the last one was opened. */
  attempts: Attempt[];
}

export interface Places {
  environment?: NodeJS.ProcessEnv;
  root?: string;
}

/** For instance "@noema/linux-x64"; musl has packages of its own, because a binary built for glibc cannot be opened there. */
export function platformPackage(): string {
  const libc = libcHere() === "musl" ? "musl" : "";
  return `@noema/${process.platform}${libc}-${process.arch}`;
}

let loaded: LoadedAddon | undefined;

/** The addon of this process (of this worker thread), opened once. Throws ERR_ADDON_MISSING. */
export function loadAddon(): LoadedAddon {
  if (!loaded) {
    loaded = openAddon();
    loaded.addon.initialise?.(NoemaError);
  }
  return loaded;
}

/** Looks in the places given and opens what it finds; `loadAddon` without its memory. */
export function openAddon({ environment = process.env, root = packageRoot }: Places = {}): LoadedAddon {
  const attempts: Attempt[] = [];
  const explicit = environment["NOEMA_ADDON"];
  const candidates = explicit
    ? [() => explicitFile(explicit)]
    : [() => fromPlatformPackage(root), () => localBuild(root)];
  for (const find of candidates) {
    const attempt = find();
    attempts.push(attempt);
    if (!attempt.path || attempt.reason) continue;
    try {
      return { addon: require(attempt.path) as Addon, path: attempt.path, attempts };
    } catch (error) {
      attempt.reason = (error as Error).message;
    }
  }
  throw missing(attempts, explicit !== undefined && explicit !== "", root);
}

function explicitFile(given: string): Attempt {
  const path = resolve(given);
  const attempt: Attempt = { source: "NOEMA_ADDON", path };
  if (!existsSync(path)) attempt.reason = "there is no such file";
  else if (!path.endsWith(".node")) attempt.reason = "its name does not end in .node";
  return attempt;
}

function fromPlatformPackage(root: string): Attempt {
  const source = platformPackage();
  try {
    const manifest = createRequire(join(root, "package.json")).resolve(`${source}/package.json`);
    const { version } = require(manifest) as { version: string };
    const attempt: Attempt = { source, path: join(dirname(manifest), "noema.node") };
    if (version !== packageVersion) attempt.reason = `it is version ${version}, this is noema ${packageVersion}`;
    return attempt;
  } catch {
    return { source, reason: "not installed" };
  }
}

function localBuild(root: string): Attempt {
  const source = "local build";
  try {
    return { source, path: findBinary({ bindings: "noema.node", module_root: root, path: true }) };
  } catch {
    return { source, path: join(root, "build", "Release", "noema.node"), reason: "it has not been built" };
  }
}

/** What builds the addon and its modules: what to type, from the folder where the process runs. */
export function buildCommand(root: string = packageRoot): string {
  if (existsSync(join(root, "package-lock.json"))) {
    const folder = relative(process.cwd(), root);
    return folder === "" ? "npm run build" : `npm --prefix ${folder} run build`;
  }
  const script = relative(process.cwd(), join(root, "scripts", "setup.mjs"));
  return `npm install cmake-js@8 && node ${script} --addon`;
}

function missing(attempts: Attempt[], isExplicit: boolean, root: string): NoemaError {
  const tried = attempts.map(({ source, path, reason }) => `${source}${path ? ` (${path})` : ""}: ${reason}`);
  const command = isExplicit ? "point NOEMA_ADDON at a noema.node of this version, or unset it" : buildCommand(root);
  const parts = [`no native addon for ${process.platform}-${process.arch}; tried ${tried.join("; ")}`];
  const here = libcHere();
  const needed = attempts.map(({ path }) => path && libcNeeded(path)).find(Boolean);
  if (here) parts.push(`libc here: ${here}${needed ? `, needed: ${needed}` : ""}`);
  parts.push(`to mend it: ${command}`);
  return new NoemaError("ERR_ADDON_MISSING", parts.join(". "), {
    attempts,
    libcHere: here,
    libcNeeded: needed,
    command,
  });
}
