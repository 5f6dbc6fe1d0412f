import { spawnSync } from "node:child_process";
import { cp, mkdir, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import test from "ava";
import { checkContinuation, loadState, readBuffer, saveState } from "../../../lib/training/state.js";
import { tinyConfig } from "./fake.js";
import { scratch } from "./scratch.js";
import { names, settings, sourceAt, stateAt } from "./tiny-state.js";

const folder = () => scratch();

async function contents(run: string) {
  const state = await loadState(run);
  const buffers: Record<string, number[]> = {};
  for (const buffer of ["parameter", "m", "v", "average"] as const)
    for await (const { name, data } of readBuffer(run, buffer, names)) buffers[`${buffer}.${name}`] = [...data];
  return { state, buffers };
}

function expected(step: number) {
  const buffers: Record<string, number[]> = {};
  for (const [i, buffer] of ["parameter", "m", "v", "average"].entries())
    for (const { name } of names)
      buffers[`${buffer}.${name}`] = Array(name === "a" ? 6 : 4).fill(Math.fround(step + i / 10));
  return { state: stateAt(step), buffers };
}

test("what was saved is loaded, and the newest wins", async (t) => {
  const run = await folder();
  t.is(await loadState(run), undefined);
  await saveState(run, stateAt(5), sourceAt(5), { average: true });
  t.deepEqual(await contents(run), expected(5));
  await saveState(run, stateAt(9), sourceAt(9), { average: true });
  t.deepEqual(await contents(run), expected(9));
  t.deepEqual(await readdir(run), ["state"]);
});

async function operations(): Promise<string[]> {
  const run = await folder();
  const seen: string[] = [];
  await saveState(run, stateAt(1), sourceAt(1), { average: true, observe: (operation) => seen.push(operation) });
  return seen;
}

test("a failure at any operation leaves the old state; the next save works", async (t) => {
  const failAt = async (index: number, operation: string) => {
    const run = await folder();
    await saveState(run, stateAt(5), sourceAt(5), { average: true });
    let count = 0;
    const observe = () => {
      // The disk stays full from here on.
      if (count++ >= index) throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
    };
    const failing = saveState(run, stateAt(6), sourceAt(6), { average: true, observe });
    await t.throwsAsync(failing, { code: "ERR_IO", message: /no space left/ }, operation);
    const found = await contents(run);
    t.deepEqual(found, expected(found.state?.step === 6 ? 6 : 5), operation);
    await saveState(run, stateAt(7), sourceAt(7), { average: true });
    t.deepEqual(await contents(run), expected(7), operation);
    t.deepEqual(await readdir(run), ["state"], operation);
  };
  await Promise.all((await operations()).map((operation, index) => failAt(index, operation)));
});

test("a process killed at any operation leaves a whole state", async (t) => {
  const run = await folder();
  await saveState(run, stateAt(5), sourceAt(5), { average: true });
  const count = (await operations()).length;
  // Killed at create, in the middle of the files, at state.json, between the two renames, and before the removal.
  for (const index of [0, 4, count - 4, count - 3, count - 2, count - 1]) {
    const copy = await folder();
    await cp(run, copy, { recursive: true });
    const script = fileURLToPath(new URL("./kill-while-saving.ts", import.meta.url));
    const child = spawnSync(process.execPath, ["--import=tsx/esm", script, copy, String(index)], { encoding: "utf8" });
    t.is(child.signal, "SIGKILL", child.stderr);
    const found = await contents(copy);
    t.deepEqual(found, expected(index >= count - 2 ? 6 : 5), `killed at operation ${index}`);
  }
});

test("a first save that was killed leaves no state", async (t) => {
  const run = await folder();
  await mkdir(join(run, "state.next"));
  await writeFile(join(run, "state.next", "parameter.safetensors"), "half");
  t.is(await loadState(run), undefined);
  t.deepEqual(await readdir(run), []);
});

test("damaged states are refused by name, not loaded", async (t) => {
  const run = await folder();
  await saveState(run, stateAt(5), sourceAt(5), { average: false });
  const path = join(run, "state", "m.safetensors");
  await truncate(path, (await readFile(path)).length - 3);
  const read = async (buffer: "m" | "v" | "average") => {
    for await (const _ of readBuffer(run, buffer, names));
  };
  await t.throwsAsync(read("m"), { code: "ERR_BAD_STATE", message: /m\.safetensors/ });
  await t.throwsAsync(read("average"), { code: "ERR_BAD_STATE", message: /average\.safetensors/ });
  await t.throwsAsync(
    async () => {
      for await (const _ of readBuffer(run, "v", [{ name: "a", shape: [3, 2] }, names[1]!]));
    },
    { code: "ERR_BAD_STATE", message: /"a": found F32 \[2,3\], expected F32 \[3,2\]/ },
  );
  const json = join(run, "state", "state.json");
  for (const [text, message] of [
    ["{", /not valid JSON/],
    ["[]", /expected an object/],
    ['{"format": 2}', /"format" is 2/],
    ['{"format": 1, "step": -1}', /"step"/],
    ['{"format": 1, "step": 1, "tokens": 1, "seconds": 1}', /"corpus"/],
  ] as const) {
    await writeFile(json, text);
    await t.throwsAsync(loadState(run), { code: "ERR_BAD_STATE", message });
  }
  await rm(json);
  await t.throwsAsync(loadState(run), {
    code: "ERR_BAD_STATE",
    message: /state\.json is missing|state\.json: is missing/,
  });
});

test("a step that is no count is refused", async (t) => {
  const run = await folder();
  await saveState(run, stateAt(1), sourceAt(1), { average: true });
  for (const step of ["1.5", "-1", "1e999", "null"]) {
    const json = JSON.stringify({ format: 1, ...stateAt(1) }).replace('"step":1', `"step":${step}`);
    await writeFile(join(run, "state", "state.json"), json);
    await t.throwsAsync(loadState(run), { code: "ERR_BAD_STATE", message: /"step"/ });
  }
});

test("progress that no run of these settings can have made is refused", async (t) => {
  const run = await folder();
  await saveState(run, stateAt(1), sourceAt(1), { average: true });
  const write = (state: object) =>
    writeFile(join(run, "state", "state.json"), JSON.stringify({ format: 1, ...stateAt(1), ...state }));
  const impossible: [object, RegExp][] = [
    [{ step: 1e15, tokens: 1e15 }, /"step" is 1000000000000000, expected at most the run's 1000 steps/],
    [{ step: 1001, tokens: 1e6 }, /"step" is 1001/],
    [{ step: 6, settings: { ...settings, steps: 5 } }, /"step" is 6, expected at most the run's 5 steps/],
    [{ step: 10, tokens: 9 }, /"tokens" is 9, which 10 steps cannot have seen/],
    [{ step: 0, tokens: 5 }, /"tokens" is 5, which 0 steps cannot have seen/],
    [{ seconds: -1 }, /"seconds"/],
    [{ settings: { ...settings, steps: 1e18 } }, /"settings.steps" is 1000000000000000000, expected an integer 1 \.\./],
    [{ settings: { ...settings, steps: "many" } }, /"settings.steps" is "many"/],
    [{ settings: { ...settings, schedule: "cosin" } }, /"settings.schedule" is "cosin", expected one of/],
    [{ settings: { ...settings, ema: [[]] } }, /"settings.ema" is an array/],
    [{ format: { toString: 1 } }, /"format" is an object, expected 1/],
  ];
  for (const [state, message] of impossible) {
    await write(state);
    await t.throwsAsync(loadState(run), { code: "ERR_BAD_STATE", message }, JSON.stringify(state));
  }
  const { beginnings: _, ...older } = settings;
  for (const state of [{ step: 1000, tokens: 8e6 }, { step: 0, tokens: 0 }, { settings: older }]) {
    await write(state);
    t.like(await loadState(run), state, "what can be is loaded");
  }
});

test("a place that cannot be written is ERR_IO", async (t) => {
  const run = join(await folder(), "file");
  await writeFile(run, "");
  await t.throwsAsync(saveState(run, stateAt(1), sourceAt(1), { average: true }), { code: "ERR_IO" });
});

test("contradicting options are named, allowed changes pass", (t) => {
  const saved = stateAt(5);
  const wanted = { ...saved, settings: { ...settings, rate: 0.5 } };
  t.notThrows(() => checkContinuation(saved, saved));
  t.notThrows(() => checkContinuation(saved, { ...saved, settings: { ...settings, saveEvery: 3, evaluateEvery: 1 } }));
  t.throws(() => checkContinuation(saved, wanted), { code: "ERR_BAD_STATE", message: /has rate 0\.001, but 0\.5/ });
  t.notThrows(() => checkContinuation(saved, wanted, ["rate"]));
  t.throws(() => checkContinuation(saved, { ...saved, corpus: "d" }), { code: "ERR_BAD_STATE", message: /corpus/ });
  t.throws(() => checkContinuation(saved, { ...saved, config: { ...tinyConfig, hiddenSize: 16 } }), {
    code: "ERR_BAD_STATE",
    message: /hiddenSize 8, but 16/,
  });
});
