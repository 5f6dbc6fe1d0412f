/**
 * One training at a time in a folder: two would take each other's half-written states away. The file `training.lock` holds
 * the number of the process that trains there, which keeps it open for writing as long as it does. So a lock that was left
 * behind tells itself from one that is held, whoever has that number now: the system closes the files of a process that was
 * killed and of a worker thread that was terminated, and nobody has the copy in a copied folder open.
 */

import type { Stats } from "node:fs";
import { type FileHandle, lstat, open, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { NoemaError } from "../errors.js";
import { exists, ioError, openRegular, writeAll } from "../files.js";

const LOCK_FILE = "training.lock";
/** A lock that names no process yet is looked at again: so often, after so many milliseconds. */
const LOOKS = 20;
const PAUSE = 25;
/** Removing a lock takes no such time: who has not done it by then died of it. */
const PERMIT_MILLISECONDS = 10_000;

export interface RunLock {
  /** Gives the folder free. */
  release(): Promise<void>;
}

/** Takes the folder for a training of this thread; ERR_INVALID_ARGUMENT, with the process in `details`, while another has it. */
export async function lockRun(run: string): Promise<RunLock> {
  try {
    for (let look = 1; ; look++) {
      const handle = await create(join(run, LOCK_FILE));
      if (handle !== undefined) return held(run, handle);
      if (!(await clear(run, look >= LOOKS))) await setTimeout(PAUSE);
    }
  } catch (error) {
    throw ioError("locking the run's folder", run, error);
  }
}

/** A new lock; undefined where there is one. */
async function create(path: string): Promise<FileHandle | undefined> {
  const handle = await createFile(path);
  if (handle === undefined) return undefined;
  try {
    await writeAll(handle, Buffer.from(`${process.pid}\n`));
    // Whoever takes so long to write a number that others give it up has lost.
    if (await isAt(path, await handle.stat())) return handle;
  } catch (error) {
    await rm(path, { force: true });
    await handle.close();
    throw error;
  }
  await handle.close();
  return undefined;
}

/** A file that was not there before; undefined where it was. */
async function createFile(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, "wx");
  } catch (error) {
    if (hasCode(error, "EEXIST")) return undefined;
    throw error;
  }
}

function held(run: string, handle: FileHandle): RunLock {
  const path = join(run, LOCK_FILE);
  const release = async () => {
    // Who removed the lock by hand may have let another training in, whose lock is there now. One that cannot be removed is
    // one that nobody holds, once it is closed.
    if (await isAt(path, await handle.stat())) await rm(path, { force: true }).catch(() => undefined);
    await handle.close();
  };
  return { release };
}

/**
 * Removes a lock that nobody holds, and throws where somebody does. False: to be looked at again, for its process may yet
 * write its number (not if it `isOld`), or another one removes it.
 */
async function clear(run: string, isOld: boolean): Promise<boolean> {
  const path = join(run, LOCK_FILE);
  try {
    // As long as it is open no other lock gets its inode.
    await using handle = await openRegular(path, "ERR_IO");
    const lock = await handle.stat();
    const pid = Number(await handle.readFile("utf8"));
    if (pid > 0 && (await isHeld(pid, lock))) throw busy(run, pid);
    return (pid > 0 || isOld) && (await remove(run, lock));
  } catch (error) {
    if (hasCode(error, "ENOENT")) return true; // it is gone already
    throw error;
  }
}

/**
 * Who makes the file that is named after the lock's inode may remove the lock; the others would find another's new lock in
 * its place.
 */
async function remove(run: string, lock: Stats): Promise<boolean> {
  const path = join(run, LOCK_FILE);
  const permit = join(run, `.${LOCK_FILE}.${lock.ino}.tmp`);
  const handle = await createFile(permit);
  if (handle === undefined) {
    const { mtimeMs } = await stat(permit);
    if (Math.abs(Date.now() - mtimeMs) > PERMIT_MILLISECONDS) await rm(permit, { force: true });
    return false;
  }
  try {
    if (await isAt(path, lock)) await rm(path, { force: true });
  } finally {
    await handle.close();
    await rm(permit, { force: true });
  }
  return true;
}

/** Whether the path is this file's. */
async function isAt(path: string, file: Stats): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found !== undefined && isSame(found, file);
}

/** Whether the process lives and writes this file. Where that cannot be looked up, that it lives is enough. */
async function isHeld(pid: number, lock: Stats): Promise<boolean> {
  if (!isAlive(pid)) return false;
  const folder = `/proc/${pid}/fd`;
  let links: string[];
  try {
    links = await readdir(folder);
  } catch (error) {
    // Of a process that has died just now there is nothing; a system without /proc shows nothing of any.
    return !hasCode(error, "ENOENT") || !(await exists("/proc/self/fd"));
  }
  for (const name of links) if (await writes(join(folder, name), lock)) return true;
  return false;
}

/** Whether a process's open file is this one, and open for writing: others only read what the lock says. */
async function writes(open: string, lock: Stats): Promise<boolean> {
  try {
    return (await isAt(open, lock)) && ((await lstat(open)).mode & 0o200) !== 0;
  } catch {
    return false; // closed meanwhile
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return hasCode(error, "EPERM");
  }
}

function isSame(a: Stats, b: Stats): boolean {
  return a.ino === b.ino && a.dev === b.dev;
}

function hasCode(error: unknown, code: string): boolean {
  return (error as NodeJS.ErrnoException).code === code;
}

function busy(run: string, pid: number): NoemaError {
  const who = pid === process.pid ? `this process (${pid})` : `process ${pid}`;
  const message = `${run}: ${who} trains in this folder; let it end first, or give another folder`;
  return new NoemaError("ERR_INVALID_ARGUMENT", message, {
    option: "run",
    value: run,
    pid,
    lock: join(run, LOCK_FILE),
  });
}
