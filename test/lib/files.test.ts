import { chmod, mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { exists, fileInside, readLimited, writeAll, writeAtomically } from "../../lib/files.js";
import { asOrdinaryUser, temporaryFolder } from "./temporary.js";

test.serial("a read-only folder: ERR_IO, and the old file is untouched", async (t) => {
  const folder = await temporaryFolder(t);
  const path = join(folder, "file");
  await writeFile(path, "old");
  await chmod(folder, 0o555);
  const ran = await asOrdinaryUser(async () => {
    const error = await t.throwsAsync(writeAtomically(path, (handle) => writeAll(handle, Buffer.from("new"))));
    t.like(error, { code: "ERR_IO", details: { path, errno: "EACCES" } });
  });
  if (!ran) t.log("skipped: permissions do not bind this user");
  await chmod(folder, 0o755);
  t.is(await readFile(path, "utf8"), "old");
});

test("a failing write leaves the old file and no temporary one", async (t) => {
  const folder = await temporaryFolder(t);
  const path = join(folder, "file");
  await writeFile(path, "old");
  const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
  const failing = writeAtomically(path, async (handle) => {
    await writeAll(handle, Buffer.from("half"));
    throw full;
  });
  await t.throwsAsync(failing, { code: "ERR_IO", message: /file: writing failed: ENOSPC/ });
  t.is(await readFile(path, "utf8"), "old");
  t.deepEqual(await readdir(folder), ["file"]);
});

test("a finished write replaces the old file", async (t) => {
  const folder = await temporaryFolder(t);
  const path = join(folder, "file");
  await writeFile(path, "old");
  await writeAtomically(path, (handle) => writeAll(handle, Buffer.from("new")));
  t.is(await readFile(path, "utf8"), "new");
  t.deepEqual(await readdir(folder), ["file"]);
});

test("fileInside follows links within the folder, and refuses to leave it", async (t) => {
  const parent = await temporaryFolder(t);
  const folder = join(parent, "inner");
  await mkdir(join(folder, "sub"), { recursive: true });
  await writeFile(join(parent, "secret"), "");
  await writeFile(join(folder, "real"), "");
  await symlink("real", join(folder, "link"));
  await symlink(join("..", "secret"), join(folder, "escape"));
  t.true((await fileInside(folder, "link", "ERR_BAD_CHECKPOINT"))?.endsWith("real"));
  t.is(await fileInside(folder, "absent", "ERR_BAD_CHECKPOINT"), undefined);
  for (const name of ["escape", "../secret", "/etc/hosts", "..", "", ".hidden", "sub", "a\\b", "a\0b", "sub/../real"]) {
    await t.throwsAsync(fileInside(folder, name, "ERR_BAD_CHECKPOINT"), { code: "ERR_BAD_CHECKPOINT" }, name);
  }
});

test("readLimited names size and limit, and a missing file", async (t) => {
  const folder = await temporaryFolder(t);
  const path = join(folder, "file");
  await writeFile(path, "12345");
  t.is((await readLimited(path, 5, "ERR_BAD_TOKENIZER")).toString(), "12345");
  await t.throwsAsync(readLimited(path, 4, "ERR_BAD_TOKENIZER"), {
    code: "ERR_BAD_TOKENIZER",
    message: /5 bytes, expected at most 4/,
  });
  await t.throwsAsync(readLimited(join(folder, "none"), 4, "ERR_BAD_TOKENIZER"), { code: "ERR_IO", message: /ENOENT/ });
  t.false(await exists(join(folder, "none")));
  t.false(await exists(join(path, "below")));
  await t.throwsAsync(exists("a\0b"), { code: "ERR_INVALID_ARGUMENT" });
});
