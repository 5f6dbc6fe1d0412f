import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { ticks } from "../../../lib/svg.js";
import { lossCurve } from "../../../lib/training/curve.js";
import { type Metric, MetricsLog, readMetrics } from "../../../lib/training/metrics.js";
import { scratch } from "./scratch.js";

const step = (at: number): Metric => ({
  type: "step",
  step: at,
  loss: 8 - at / 100,
  rate: 1,
  gradientNorm: 1,
  tokensPerSecond: 1,
  seconds: at,
});
const heldOut = (at: number): Metric => ({
  type: "held-out",
  step: at,
  source: "average",
  bound: 7 - at / 100,
  standardError: 0.1,
  sequences: 4,
  tokens: 9,
  draws: 2,
});

async function file(text: string): Promise<string> {
  const path = join(await scratch(), "metrics.jsonl");
  await writeFile(path, text);
  return path;
}

test("lines after the state's step, and a line cut short by a kill, are dropped", async (t) => {
  const lines = [step(1), heldOut(1), step(2), step(3)].map((metric) => JSON.stringify(metric));
  const path = await file(`${lines.join("\n")}\n{"type":"step","st`);
  t.deepEqual(await readMetrics(path), [step(1), heldOut(1), step(2), step(3)]);
  const log = await MetricsLog.open(path, 2);
  t.deepEqual(log.all, [step(1), heldOut(1), step(2)]);
  log.add(step(3));
  await log.flush();
  t.deepEqual(await readMetrics(path), [step(1), heldOut(1), step(2), step(3)]);
  t.true(log.has("held-out", 1));
  t.false(log.has("held-out", 2));
  t.true(log.has("step", 3));
});

test("a failed write loses nothing: the next flush writes it all", async (t) => {
  const path = await file("");
  const log = await MetricsLog.open(path, 0);
  log.add(step(1));
  await log.flush();
  await rm(path);
  await mkdir(path);
  log.add(step(2));
  await t.throwsAsync(log.flush(), { code: "ERR_IO" });
  log.add(step(3));
  await t.throwsAsync(log.flush(), { code: "ERR_IO" });
  await rm(path, { recursive: true });
  await log.flush();
  log.add(step(4));
  await log.flush();
  t.deepEqual(await readMetrics(path), [step(1), step(2), step(3), step(4)]);
  t.is((await readFile(path, "utf8")).split("\n").length, 5);
});

test("no file: no metrics", async (t) => {
  t.deepEqual(await readMetrics("/nonexistent/metrics.jsonl"), []);
});

test("ticks are round and inside", (t) => {
  t.deepEqual(ticks(0, 10), [0, 2, 4, 6, 8, 10]);
  t.deepEqual(ticks(2.13, 8.3), [4, 6, 8]);
  t.deepEqual(ticks(0.001, 0.003), [0.001, 0.0015, 0.002, 0.0025, 0.003]);
});

test("the curve draws both lines, labels its axes and escapes its title", (t) => {
  const svg = lossCurve([step(1), heldOut(1), step(100), heldOut(100)], { title: "a < b & c" });
  t.regex(svg, /^<svg [^>]*viewBox/);
  t.regex(svg, /polyline class="train" points="[\d.]+,[\d.]+ [\d.]+,[\d.]+"/);
  t.regex(svg, /polyline class="held" points="[\d.]+,[\d.]+ [\d.]+,[\d.]+"/);
  t.regex(svg, />step</);
  t.regex(svg, /nats per token/);
  t.false(svg.includes("a < b"));
  t.false(/NaN|Infinity/.test(svg));
});

test("a curve of nothing, of one point and of very many points stays small and finite", (t) => {
  const many = lossCurve(Array.from({ length: 20_000 }, (_, i) => step(i)));
  for (const svg of [lossCurve([]), lossCurve([step(5)]), many]) t.false(/NaN|Infinity/.test(svg));
  t.true(many.length < 10_000, `${many.length} characters`);
});
