/**
 * Asks in a child process whether a device's backend can be opened, so that a driver that crashes or hangs costs only the child.
 * The answer comes on a descriptor of its own: drivers may write to the others.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import type { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { isObject } from "../json.js";
import type { ProbeResult } from "./addon.js";
import { moduleFile, moduleOf } from "./device-module.js";

export interface Probing {
  backend: string;
  /** The addon that the child opens: the one that this process has opened. */
  addonPath: string;
  /** How long the child may take. */
  seconds?: number;
}

/** To wake many sleeping GPUs takes some twenty. */
const patience = 60;

/** Text instead of a file, so that it needs no loader and no place; its arguments are the addon's path and the backend. */
const script = `
const [path, backend] = process.argv.slice(1);
const answer = JSON.stringify(require(path).probe(backend));
require("node:fs").writeSync(3, answer);`;

const verdicts = new Map<string, Promise<ProbeResult>>();

/** The verdict on a backend; found once per process (per worker thread). Rejects only when no child can be started. */
export function probe(probing: Probing): Promise<ProbeResult> {
  const key = JSON.stringify([probing.addonPath, probing.backend]);
  const known = verdicts.get(key);
  if (known) return known;
  const verdict = askChild(probing);
  verdicts.set(key, verdict);
  verdict.catch(() => verdicts.delete(key)); // that no child could be started says nothing of the device
  return verdict;
}

/** `probe` without its memory. */
export async function askChild({ backend, addonPath, seconds = patience }: Probing): Promise<ProbeResult> {
  const { reason } = moduleFile(moduleOf(backend) ?? backend, addonPath);
  if (reason) return { usable: false, reason };
  // What the host was started with (loaders, debuggers) is none of the child's business.
  const child = spawn(process.execPath, ["--input-type=commonjs", "-e", script, addonPath, backend], {
    stdio: ["ignore", "ignore", "pipe", "pipe"],
    env: { ...process.env, NODE_OPTIONS: undefined, ELECTRON_RUN_AS_NODE: "1" },
  });
  const limit = new AbortController();
  try {
    watch(child);
    return await Promise.race([verdictOf(child), tooLate(seconds, limit.signal)]);
  } finally {
    limit.abort();
    release(child);
  }
}

async function tooLate(seconds: number, signal: AbortSignal): Promise<ProbeResult> {
  await sleep(seconds * 1000, undefined, { signal });
  return { usable: false, reason: `a child process that opened it gave no answer within ${seconds} s` };
}

async function verdictOf(child: ChildProcess): Promise<ProbeResult> {
  const [answer, complaint, [code, signal]] = await Promise.all([
    text(child.stdio[3] as Readable),
    text(child.stderr!),
    once(child, "close"),
  ]);
  if (code === 0) return parse(answer);
  const how = signal ? `crashed (${signal})` : `failed (exit code ${code})`;
  const said = whatMatters(complaint);
  return { usable: false, reason: `a child process that opened it ${how}${said ? `: ${said}` : ""}` };
}

function parse(answer: string): ProbeResult {
  try {
    const result = JSON.parse(answer);
    if (isObject(result) && typeof result["usable"] === "boolean") return result as unknown as ProbeResult;
  } catch {
    // said below
  }
  return { usable: false, reason: "a child process that opened it ended without an answer" };
}

/** Of an exception's report its message, of other complaints the last line. */
function whatMatters(complaint: string): string {
  const lines = complaint.split("\n").filter((line) => line.trim() !== "");
  return (lines.find((line) => /^\w*Error\b/.test(line)) ?? lines.at(-1) ?? "").slice(0, 500);
}

// --- no child outlives this process ----------------------------------------------------------------------------------

const running = new Set<ChildProcess>();

function killAll(): void {
  for (const child of running) child.kill("SIGKILL");
}

function watch(child: ChildProcess): void {
  if (running.size === 0) process.on("exit", killAll);
  running.add(child);
}

/** A child that hangs in a driver may not even die when killed: nothing waits for it. */
function release(child: ChildProcess): void {
  running.delete(child);
  if (running.size === 0) process.off("exit", killAll);
  child.kill("SIGKILL");
  child.unref();
  for (const stream of child.stdio) stream?.destroy();
}
