import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import test from "ava";
import { lockRun } from "../../../lib/training/lock.js";
import { loadState } from "../../../lib/training/state.js";
import { train } from "../../../lib/training/train.js";
import { FakeEngine } from "./fake.js";
import { scratch } from "./scratch.js";
import { collect, fixture } from "./tiny-run.js";

const script = fileURLToPath(new URL("./train-slowly.ts", import.meta.url));
/** Whether a lock that was left by a living process can be told from one that is held. */
const seesOpenFiles = process.platform === "linux";

const busy = (pid: number) => ({
  code: "ERR_INVALID_ARGUMENT",
  message: new RegExp(`process \\(?${pid}\\)? trains in this folder`),
});

async function firstStep(stream: Readable): Promise<void> {
  for await (const text of stream.setEncoding("utf8").iterator({ destroyOnReturn: false }))
    if (String(text).includes("step 1\n")) return;
}

/** Of a process that has ended. */
const deadPid = spawnSync(process.execPath, ["--version"]).pid;

async function leaveLock(run: string, text: string): Promise<string> {
  await mkdir(run, { recursive: true });
  const path = join(run, "training.lock");
  await writeFile(path, text);
  return path;
}

test("a second training in a folder is refused at once, and the first one's saves stay whole", async (t) => {
  const { options } = await fixture({ saveEvery: 1 });
  for await (const event of train({ native: new FakeEngine() }, options)) {
    if (event.type !== "step" || event.step % 3 !== 0) continue;
    const error = await t.throwsAsync(collect(options), busy(process.pid));
    t.like(error, { details: { option: "run", value: options.run, pid: process.pid } });
    t.is((await loadState(options.run))?.step, event.step - 1);
  }
  t.false((await readdir(options.run)).includes("training.lock"));
});

test("of trainings that begin together one goes on", async (t) => {
  const { options } = await fixture();
  const ends = await Promise.allSettled(Array.from({ length: 5 }, () => collect(options)));
  t.is(ends.filter(({ status }) => status === "fulfilled").length, 1);
});

test("of many that find a lock left behind one takes it over", async (t) => {
  const run = await scratch();
  for (let round = 0; round < 40; round++) {
    await leaveLock(run, `${deadPid}\n`);
    const ends = await Promise.allSettled(Array.from({ length: 8 }, () => lockRun(run)));
    const [taken, ...others] = ends.flatMap((end) => (end.status === "fulfilled" ? [end.value] : []));
    t.deepEqual(others, []);
    await taken!.release();
    t.deepEqual(await readdir(run), []);
  }
});

test("the folder is free again whatever the end: refused, aborted, left, failed, disposed of", async (t) => {
  const { options } = await fixture();
  const isFree = async (how: string) => {
    const lock = await lockRun(options.run);
    await lock.release();
    t.false((await readdir(options.run)).includes("training.lock"), how);
  };
  await t.throwsAsync(collect({ ...options, corpus: ["/nonexistent/text.txt"] }));
  await isFree("refused");
  const abort = new AbortController();
  await t.throwsAsync(async () => {
    for await (const event of train({ native: new FakeEngine() }, { ...options, signal: abort.signal }))
      if (event.type === "step") abort.abort(new Error("enough"));
  });
  await isFree("aborted");
  for await (const event of train({ native: new FakeEngine() }, options)) if (event.type === "step") break;
  await isFree("left");
  const engine = new FakeEngine();
  engine.poisonedStep = 5;
  await t.throwsAsync(collect(options, engine));
  await isFree("failed");
  const training = train({ native: new FakeEngine() }, options);
  await training[Symbol.asyncIterator]().next();
  await t.throwsAsync(lockRun(options.run), busy(process.pid));
  await training.dispose();
  await isFree("disposed of");
});

test("a run that is kept after a full disk keeps its folder", async (t) => {
  const { options } = await fixture();
  const engine = new FakeEngine();
  await using training = train({ native: engine }, options);
  await t.throwsAsync(
    async () => {
      for await (const event of training) if (event.type === "step") engine.trainers[0]!.full = true;
    },
    { code: "ERR_IO" },
  );
  await t.throwsAsync(lockRun(options.run), busy(process.pid));
});

test("another process's training is refused; killed, its folder is taken over", async (t) => {
  const { options } = await fixture({ saveEvery: 1 });
  const child = spawn(process.execPath, ["--import=tsx", script, JSON.stringify({ ...options, steps: 1000 })], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await firstStep(child.stdout);
  await t.throwsAsync(collect(options), busy(child.pid!));
  child.kill("SIGKILL");
  await once(child, "exit");
  t.is(await readFile(join(options.run, "training.lock"), "utf8"), `${child.pid}\n`);
  await collect({ ...options, steps: 1000, stopAt: ((await loadState(options.run))?.step ?? 0) + 1 });
  t.false((await readdir(options.run)).some((name) => name.includes("lock")));
});

test("a worker thread's training counts; terminated, its folder is taken over", async (t) => {
  const { options } = await fixture({ steps: 1000 });
  const source = `import("tsx/esm/api").then(({ register }) => (register(), import(${JSON.stringify(script)})))`;
  const worker = new Worker(source, { eval: true, argv: [JSON.stringify(options)], stdout: true });
  await firstStep(worker.stdout);
  await t.throwsAsync(lockRun(options.run), busy(process.pid));
  await worker.terminate();
  if (!seesOpenFiles) return t.log("skipped: this system does not tell which files are open");
  const lock = await lockRun(options.run);
  await lock.release();
  return t.pass();
});

test("locks that nobody holds are taken over", async (t) => {
  const left: [string, string][] = [
    ["of a dead process", `${deadPid}\n`],
    ["cut short by a power cut", ""],
    ["no number", "x"],
  ];
  // Numbers are given out again: to this process, or to its parent.
  if (seesOpenFiles) left.push(["of a number that others have now", `${process.ppid}\n`], ["own", `${process.pid}\n`]);
  for (const [what, text] of left) {
    const run = await scratch();
    const path = await leaveLock(run, text);
    const lock = await lockRun(run);
    t.is(await readFile(path, "utf8"), `${process.pid}\n`, what);
    await t.throwsAsync(lockRun(run), busy(process.pid), what);
    await lock.release();
    t.deepEqual(await readdir(run), [], what);
  }
});

test("who only reads a lock does not hold it", async (t) => {
  if (!seesOpenFiles) return t.log("skipped: this system does not tell which files are open");
  const run = await scratch();
  const path = await leaveLock(run, `${process.pid}\n`);
  await using _ = await open(path, "r");
  await (await lockRun(run)).release();
  return t.deepEqual(await readdir(run), []);
});

test("a copy of a folder in which a training goes on is free", async (t) => {
  if (!seesOpenFiles) return t.log("skipped: this system does not tell which files are open");
  const [run, copy] = [await scratch(), join(await scratch(), "copy")];
  const lock = await lockRun(run);
  await cp(run, copy, { recursive: true });
  await (await lockRun(copy)).release();
  t.deepEqual(await readdir(copy), []);
  return lock.release();
});

test("a lock that was removed by hand and taken by another is left to it", async (t) => {
  const run = await scratch();
  const first = await lockRun(run);
  await rm(join(run, "training.lock"));
  const second = await lockRun(run);
  await first.release();
  await t.throwsAsync(lockRun(run), busy(process.pid));
  await second.release();
  t.deepEqual(await readdir(run), []);
});
