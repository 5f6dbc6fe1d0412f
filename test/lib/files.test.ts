import { execFileSync } from "node:child_process";
import { chmod, mkdir, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import test from "ava";
import { SafetensorsFile } from "../../lib/checkpoint/safetensors.js";
import { NoemaError } from "../../lib/errors.js";
import { exists, fileInside, readLimited, readRegular, writeAll, writeAtomically } from "../../lib/files.js";
import { Thought } from "../../lib/posterior/thought.js";
import { Tokenizer } from "../../lib/tokenizer/tokenizer.js";
import { readMetrics } from "../../lib/training/metrics.js";
import { inspectTextFile, readPieces } from "../../lib/training/text.js";
import { Golden } from "../../lib/verification/golden.js";
import { asOrdinaryUser, temporaryFolder } from "./temporary.js";
import { collect, fixture } from "./training/tiny-run.js";

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

const readers: [string, (path: string) => Promise<unknown>][] = [
  ["readLimited", (path) => readLimited(path, 99, "ERR_IO")],
  ["readRegular", (path) => readRegular(path, "ERR_IO")],
  ["a safetensors file", (path) => SafetensorsFile.open(path)],
  ["a tokenizer", (path) => Tokenizer.load(path)],
  ["a thought", (path) => Thought.load(path, { latents: 1, width: 1, fingerprint: "" })],
  ["a golden folder", (path) => Golden.open(dirname(path))],
  ["a text file", (path) => inspectTextFile(path)],
  ["a text file's pieces", (path) => readPieces(path).next()],
  ["metrics", (path) => readMetrics(path)],
];

for (const [what, read] of readers) {
  test(`${what}: named pipes, devices and folders are refused, and hold nobody up`, async (t) => {
    t.timeout(20_000);
    const folder = await temporaryFolder(t);
    const pipe = join(folder, "expected.json");
    execFileSync("mkfifo", [pipe]);
    await t.throwsAsync(read(pipe), { instanceOf: NoemaError, message: `${pipe}: not a regular file` });
    if (what === "a golden folder") return;
    for (const path of ["/dev/zero", folder])
      await t.throwsAsync(read(path), { instanceOf: NoemaError, message: `${path}: not a regular file` });
  });
}

test("a training's state and its cached tokens are read from files alone", async (t) => {
  t.timeout(60_000);
  const { options } = await fixture({ stopAt: 1 });
  await collect(options);
  const [cached] = await readdir(join(options.run, "..", "cache"));
  const shard = join(options.run, "..", "cache", cached!, "00000.bin");
  const state = join(options.run, "state", "m.safetensors");
  for (const path of [shard, state]) {
    await rm(path);
    execFileSync("mkfifo", [path]);
  }
  await t.throwsAsync(collect({ ...options, stopAt: 2 }), {
    code: "ERR_BAD_STATE",
    message: /m\.safetensors: not a reg/,
  });
  t.true((await stat(shard)).isFile(), "made anew");
});
