/** Devices are tried in a child process: whatever a driver does there, this process gets an answer. */

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { loadAddon } from "../../lib/native/load.js";
import { openEngine } from "../../lib/native/open-engine.js";
import { askChild, probe } from "../../lib/native/probe.js";
import { fakeAddon } from "../support/fake-addon.js";
import { sharedFolder } from "./temporary.js";

const shared = sharedFolder();
let folders = 0;

/** An addon in JavaScript whose `probe(backend)` has this body, with an empty module beside it. */
function addon(body: string): string {
  const folder = join(shared, String(folders++));
  mkdirSync(folder);
  writeFileSync(join(folder, "noema-cuda.so"), "");
  const path = join(folder, "noema.cjs");
  writeFileSync(path, `exports.probe = (backend) => { ${body} };`);
  return path;
}

const ask = (body: string, seconds = 60) => askChild({ backend: "cuda:1", addonPath: addon(body), seconds });
const crash = (body: string) => ask(body).then(({ usable, reason }) => (usable ? "usable" : reason));

test("an answer is handed on, whatever else is printed", async (t) => {
  const body = `console.log("noise"); console.error("noise"); return { usable: true, description: "GPU of " + backend };`;
  t.deepEqual(await ask(body), { usable: true, description: "GPU of cuda:1" });
  t.deepEqual(await ask(`return { usable: false, reason: "no driver" };`), { usable: false, reason: "no driver" });
});

test("a crash costs only the child", async (t) => {
  const segfault = `process.kill(process.pid, "SIGSEGV"); for (;;);`;
  t.is(await crash(segfault), "a child process that opened it crashed (SIGSEGV)");
  const aborted = `console.error("driver: bad state"); process.abort();`;
  t.regex((await crash(aborted)) ?? "", /crashed \(SIGABRT\)/);
  const late = `process.on("exit", () => process.kill(process.pid, "SIGKILL")); return { usable: true };`;
  t.is(await crash(late), "a child process that opened it crashed (SIGKILL)");
});

test("an exit, an exception, no answer or another one", async (t) => {
  t.is(
    await crash(`console.error("first"); console.error("lib: out of luck"); process.exit(3);`),
    "a child process that opened it failed (exit code 3): lib: out of luck",
  );
  t.is(
    await crash(`throw new Error("no such symbol");`),
    "a child process that opened it failed (exit code 1): Error: no such symbol",
  );
  t.is(await crash("process.exit(0);"), "a child process that opened it ended without an answer");
  t.is(await crash("return 7;"), "a child process that opened it ended without an answer");
});

test("a hanging driver is given up on; the event loop turned meanwhile", async (t) => {
  let turns = 0;
  const timer = setInterval(() => turns++, 5);
  const started = performance.now();
  const hang = "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);";
  const { usable, reason } = await ask(hang, 0.4);
  clearInterval(timer);
  t.false(usable);
  t.is(reason, "a child process that opened it gave no answer within 0.4 s");
  t.true(performance.now() - started < 10_000);
  t.true(turns > 5);
});

test("a verdict is asked for once per process", async (t) => {
  const path = addon(`require("node:fs").appendFileSync(__dirname + "/calls", "x"); return { usable: true };`);
  const probing = { backend: "cuda", addonPath: path };
  t.is(probe(probing), probe(probing));
  t.true((await probe(probing)).usable);
  t.not(probe(probing), probe({ ...probing, backend: "cuda:1" }));
});

test("without a module no child is started, and the remedy is named", async (t) => {
  const path = join(shared, "bare.cjs");
  writeFileSync(path, "process.exit(1)");
  const { usable, reason } = await askChild({ backend: "cuda", addonPath: path });
  t.false(usable);
  t.regex(reason!, /^this build has no CUDA module \(.*noema-cuda\.so\); where nvcc .* makes it: .*npm /);
});

test("an engine opens only what a child could open", async (t) => {
  const fake = fakeAddon();
  const options = { backend: "cuda", threads: 0 } as const;
  const open = (body: string) => openEngine({ addon: fake.addon, path: addon(body) }, options);
  const { native, description } = await open(`return { usable: true, description: "a toy" };`);
  t.is(description, "a toy");
  native.dispose();
  await t.throwsAsync(open(`return { usable: false, reason: "GPU 0 has compute capability 7.5" };`), {
    code: "ERR_DEVICE_UNAVAILABLE",
    message: "cuda cannot be used: GPU 0 has compute capability 7.5",
  });
  t.is(fake.log.enginesFreed, 1);
});

test("the real addon answers a child", async (t) => {
  const { path } = loadAddon();
  const { usable, description, reason } = await probe({ backend: "cuda-emulated", addonPath: path });
  t.log(usable ? description! : reason!);
  t.is(typeof (usable ? description : reason), "string");
});
