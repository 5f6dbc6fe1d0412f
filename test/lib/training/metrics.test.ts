import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { lossCurve, ticks } from "../../../lib/training/curve.js";
import { type Metric, metricsUpTo, readMetrics } from "../../../lib/training/metrics.js";

const step = (at: number): Metric => ({
  kind: "step",
  step: at,
  loss: 8 - at / 100,
  rate: 1,
  gradientNorm: 1,
  tokensPerSecond: 1,
  seconds: at,
});
const heldOut = (at: number): Metric => ({
  kind: "held-out",
  step: at,
  source: "average",
  bound: 7 - at / 100,
  standardError: 0.1,
  sequences: 4,
  tokens: 9,
  draws: 2,
});

async function file(text: string): Promise<string> {
  const path = join(await mkdtemp(join(tmpdir(), "noema-metrics-")), "metrics.jsonl");
  await writeFile(path, text);
  return path;
}

test("lines after the state's step, and a line cut short by a kill, are dropped", async (t) => {
  const lines = [step(1), heldOut(1), step(2), step(3)].map((metric) => JSON.stringify(metric));
  const path = await file(`${lines.join("\n")}\n{"kind":"step","st`);
  t.deepEqual(await readMetrics(path), [step(1), heldOut(1), step(2), step(3)]);
  t.is(await metricsUpTo(path, 2), `${lines.slice(0, 3).join("\n")}\n`);
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
  const svg = lossCurve([step(1), heldOut(1), step(100), heldOut(100)], "a < b & c");
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
