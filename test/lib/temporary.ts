/** Folders and permissions for tests that touch the disk. */

import { mkdtempSync, rmSync } from "node:fs";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ExecutionContext } from "ava";

/** A new folder that is removed when the test ends. */
export async function temporaryFolder(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "noema-test-"));
  await chmod(folder, 0o755); // mkdtemp shuts out the ordinary user of `asOrdinaryUser`
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** A new folder for all tests of a process, removed when it ends. */
export function sharedFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "noema-shared-"));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/**
 * Runs with permissions that count: root may write anywhere, so there the effective user becomes "nobody" meanwhile. Call it
 * from serial tests only. Says false, and runs nothing, where the user cannot be changed.
 */
export async function asOrdinaryUser(run: () => Promise<void>): Promise<boolean> {
  if (process.platform === "win32") return false;
  const isRoot = process.geteuid?.() === 0;
  if (isRoot && process.seteuid === undefined) return false;
  if (isRoot) process.seteuid?.(65534);
  try {
    await run();
  } finally {
    if (isRoot) process.seteuid?.(0);
  }
  return true;
}
