/** Files read with a limit and written so that a crash, a full disk or a read-only folder leaves the old file as it was. */

import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, sep } from "node:path";
import { type ErrorCode, NoemaError } from "./errors.js";
import { describe } from "./json.js";

/** What the operating system said becomes ERR_IO naming the path; anything else (an abort, a NoemaError) stays what it is. */
export function ioError(action: string, path: string, error: unknown): Error {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ERR_INVALID_ARG_VALUE") {
    return new NoemaError("ERR_INVALID_ARGUMENT", `${describe(path)} is not a path`, { path }, { cause: error });
  }
  if (typeof code !== "string" || !/^E[A-Z0-9]+$/.test(code)) return error as Error;
  return new NoemaError("ERR_IO", `${path}: ${action} failed: ${message}`, { path, errno: code }, { cause: error });
}

export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isMissing(error)) return false;
    throw ioError("looking it up", path, error);
  }
}

function isMissing(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOENT" || code === "ENOTDIR";
}

/**
 * The path of a file of this folder, after symbolic links. A link may point elsewhere within the folder, never out of it.
 * Undefined when there is no such file; `code` when it leads out or is no regular file.
 */
export async function fileInside(folder: string, name: string, code: ErrorCode): Promise<string | undefined> {
  const path = join(folder, name);
  if (name !== basename(name) || name.includes("\\") || name.includes("\0") || name === "" || name.startsWith(".")) {
    throw new NoemaError(code, `${folder}: ${describe(name)} is not the plain name of a file in this folder`, {
      folder,
      name,
    });
  }
  try {
    const real = await realpath(path);
    if (!real.startsWith((await realpath(folder)) + sep)) {
      throw new NoemaError(code, `${path}: a link that leads out of its folder, to ${real}`, { path, target: real });
    }
    if (!(await stat(real)).isFile()) throw new NoemaError(code, `${path}: not a regular file`, { path });
    return real;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw ioError("looking it up", path, error);
  }
}

/**
 * Opens a file for reading; refuses with `code` what is none. Not blocking, for a named pipe would hold a thread of Node's
 * pool until somebody writes to it; to files it means nothing.
 */
export async function openRegular(path: string, code: ErrorCode): Promise<FileHandle> {
  const handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)); // Windows has none
  try {
    if ((await handle.stat()).isFile()) return handle;
    throw new NoemaError(code, `${path}: not a regular file`, { path });
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** The whole file, however long; refused with `code` when it is no regular file. */
export async function readRegular(path: string, code: ErrorCode): Promise<Buffer> {
  await using handle = await openRegular(path, code);
  return await handle.readFile();
}

/** The whole file, refused with `code` when it is no regular file, or before anything is allocated when it is longer than `limit` bytes. */
export async function readLimited(path: string, limit: number, code: ErrorCode): Promise<Buffer> {
  try {
    await using handle = await openRegular(path, code);
    const { size } = await handle.stat();
    if (size > limit) {
      throw new NoemaError(code, `${path}: ${size} bytes, expected at most ${limit}`, { path, size, limit });
    }
    const buffer = Buffer.alloc(size);
    await readExactly(handle, path, buffer, 0);
    return buffer;
  } catch (error) {
    throw ioError("reading", path, error);
  }
}

/** One read call moves at most this much: the system's own limit is just below 2 GiB. */
const READ_BYTES = 1 << 30;

/** Fills the buffer from a position of the file; ERR_IO when the file ends before. */
export async function readExactly(
  handle: FileHandle,
  path: string,
  buffer: Uint8Array,
  position: number,
): Promise<void> {
  for (let done = 0; done < buffer.length; ) {
    const length = Math.min(READ_BYTES, buffer.length - done);
    const { bytesRead } = await handle.read(buffer, done, length, position + done);
    if (bytesRead === 0) {
      throw new NoemaError("ERR_IO", `${path}: the file ended at byte ${position + done} while it was read`, { path });
    }
    done += bytesRead;
  }
}

/**
 * Writes a file under a temporary name in the same folder, makes it durable, then gives it its name. Whatever fails, the
 * temporary file is removed, an existing file of that name is untouched, and the error is ERR_IO.
 */
export async function writeAtomically(path: string, write: (handle: FileHandle) => Promise<void>): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomUUID()}.tmp`);
  try {
    await writeDurably(temporary, write);
    await rename(temporary, path);
    await syncFolder(dirname(path));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw ioError("writing", path, error);
  }
}

/** Writes a new file and waits until the disk has it. */
export async function writeDurably(path: string, write: (handle: FileHandle) => Promise<void>): Promise<void> {
  await using handle = await open(path, "wx");
  await write(handle);
  await handle.sync();
}

/** Writes all of the bytes, however many calls that takes. */
export async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, done, Math.min(READ_BYTES, bytes.length - done));
    done += bytesWritten;
  }
}

/** Makes renames in the folder durable. Windows has no such call, and needs none. */
export async function syncFolder(folder: string): Promise<void> {
  if (process.platform === "win32") return;
  await using handle = await open(folder, "r");
  await handle.sync();
}
