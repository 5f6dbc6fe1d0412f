import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { createEngine, evaluate, type ThoughtModel } from "../../lib/index.js";
import { compareThoughts, page } from "../../scripts/compare-thoughts.js";
import { counts, numbers } from "../../scripts/comparison.js";
import { configurations, loopOf, type Setup, trainingOf } from "../../scripts/thoughts-configurations.js";
import {
  boundsTable,
  continuationsTable,
  costTable,
  effectsOf,
  type Found,
  findings,
  rowsOf,
} from "../../scripts/thoughts-report.js";
import type { Result, Scored } from "../../scripts/thoughts-runs.js";
import { sharedFolder } from "../lib/temporary.js";

const small: Setup = {
  ...{ data: "data", runs: "runs", tokens: 3 * 64, width: 8, heads: 1, layers: 2, window: 6, length: 16, batch: 4 },
  ...{ rate: 0.01, seed: 1, fast: [1, 2], latents: [2, 4], windows: 3, draws: 4, prefix: 4 },
};

test("a baseline and a model per cell, all trained alike", (t) => {
  const made = configurations({ fast: [4, 16], latents: [12, 24, 48] });
  t.deepEqual(
    made.map(({ name }) => name),
    ["autoregressive", "t4-n12", "t16-n12", "t4-n24", "t16-n24", "t4-n48", "t16-n48"],
  );
  const [baseline, cell] = made.map((configuration) => trainingOf(configuration, small));
  t.like(baseline, { family: "autoregressive", thought: undefined, steps: 3 });
  t.like(cell, { thought: { latents: 12, window: 6, inference: loopOf(4) }, family: undefined });
  const { family: _, run: __, ...rest } = baseline!;
  const { thought: ___, klWarmup, run: ____, ...others } = cell!;
  t.is(klWarmup, 2);
  t.deepEqual(rest, others);
});

test("log-variances have the way to the prior's that the rates take them", (t) => {
  for (const steps of [1, 4, 16, 24]) {
    const { schedule, learningRate, logVarianceInit } = loopOf(steps);
    t.is(schedule, "linear");
    const way = (steps * (learningRate[0] + learningRate[1])) / 2;
    t.true(Math.abs(way / -logVarianceInit - 1) < 0.03, `${steps}`);
  }
  t.is(loopOf(4).logVarianceInit, -1.25);
  for (const steps of [40, 64]) {
    const { schedule, learningRate, logVarianceInit } = loopOf(steps);
    t.is(schedule, "cosine");
    t.true(0.55 * steps * learningRate[1] > -logVarianceInit, `${steps}`);
  }
});

test("flags that are no numbers are refused", (t) => {
  t.deepEqual(numbers({ a: "1", b: "0.5" }), { a: 1, b: 0.5 });
  for (const text of ["", "x", "1e999"]) t.throws(() => numbers({ rate: text }), { message: /^--rate: / });
  t.deepEqual(counts("fast", "4,16"), [4, 16]);
  for (const text of ["", "0", "4,,16", "1.5"]) t.throws(() => counts("fast", text), { message: /^--fast: / });
});

/** Three windows of ten tokens; every part of what they cost is shifted alike. */
function scored(nats: number, whole: boolean): Scored {
  const around = (mean: number) => [mean - 1, mean, mean + 1];
  return {
    ...{ tokens: [10, 10, 10], nats: around(nats) },
    thought: {
      ...{ crossEntropy: around(nats - 2), kl: [2, 2, 2], importanceWeighted: around(nats - 0.5) },
      ...(whole && { same_noise_nelbo: around(nats - 5) }),
    },
  };
}

const cost = { parameters: 1.5e6, embeddings: 5e5, trainingTokens: 6e5 };

/** Of windows and continuations: the baseline's, and what cells cost, whose index goes through N, then T. */
function foundWith(baseline: [number, number], cells: (index: number) => [number, number]): Found[] {
  return configurations({ fast: [4, 16], latents: [12, 24] }).map((configuration, i) => {
    const [whole, continued] = configuration.cell ? cells(i - 1) : baseline;
    const result: Result = {
      ...{ ...cost, tokensPerSecond: configuration.cell ? 10_000 / configuration.cell.steps : 20_000 },
      ...{ whole: scored(whole, true), continued: scored(continued, false) },
    };
    if (configuration.cell) return { configuration, result };
    const plain = ({ tokens, nats }: Scored) => ({ tokens, nats });
    return { configuration, result: { ...result, whole: plain(result.whole), continued: plain(result.continued) } };
  });
}

const words = (found: readonly Found[]) => findings(rowsOf(found, { length: 256 }), effectsOf(found));

test("the tables", (t) => {
  const rows = rowsOf(
    foundWith([20, 18], (i) => [30 + i, 25]),
    { length: 256 },
  );
  const [, , baseline, first] = boundsTable(rows, 16).split("\n");
  t.is(baseline, "| baseline |  | 2.0000 ± 0.0577 |  |  |  |  |  |");
  t.is(
    first,
    "| 4 | 12 | at most 3.0000 ± 0.0577 | 2.8000 ± 0.0577 | 0.2000 ± 0.0000 | 2.9500 ± 0.0577 | 0.9500 ± 0.0000 | 2.5000 ± 0.0577 |",
  );
  const continued = continuationsTable(rows).split("\n");
  t.is(continued.length, 2 + 5);
  t.is(continued[3], "| 4 | 12 | 2.5000 ± 0.0577 | 2.4500 ± 0.0577 | 0.6500 ± 0.0000 |");
  const costs = costTable(rows).split("\n");
  t.is(costs[2], "| baseline |  | 1.50 M | 1.00 M | 20000 | 0 | 0.5 | 1.0 |");
  t.is(costs[4], "| 16 | 12 | 1.50 M | 1.00 M | 625 | 37500 | 16.0 | 32.0 |");
});

test("what they say follows from the figures", (t) => {
  // T lowers the bound by 1 and raises continuations by 2; N raises the bound by 3, and leaves continuations alone.
  const own = words(foundWith([20, 18], (i) => [30 - (i % 2) + 3 * Math.floor(i / 2), 25 + 2 * (i % 2)]));
  t.true(
    own.startsWith(
      "More thought (T_fast) lowers the bound in all 2 comparisons. It lowers the continuation loss in 0 and raises it in 2 of 2 comparisons for certain.\n\n" +
        "- N = 12, T from 4 to 16: the bound falls by 0.1000 ± 0.0000, the continuation loss rises by 0.2000 ± 0.0000.\n" +
        "- N = 24, T from 4 to 16: ",
    ),
    own,
  );
  t.regex(
    own,
    /More latents \(N\) lowers the bound in 0 and raises it in 2 of 2 .* in none of 2 comparisons for certain/,
  );
  t.regex(
    own,
    /- T = 16, N from 12 to 24: the bound rises by 0\.3000 ± .*loss does not move for certain \(0\.0000 ± 0\.0000\)/,
  );
  t.regex(
    own,
    /No thought model's importance-weighted bound lies below .* of T_fast 16, N 12, lies 0\.8500 ± 0\.0000 nats per token above it/,
  );
  t.regex(
    own,
    /A thought costs 0\.2000 to 0\.2000 .* lies below the bound in 4 of 4 models, .* bound in 4; .* is 0\.5000 to 0\.5000/,
  );
  t.regex(own, /Training takes, in times of the baseline's, 8\.0 to 8\.0 at T_fast 4, 32\.0 to 32\.0 at T_fast 16\./);
  const better = words(foundWith([20, 18], (i) => [i === 2 ? 15 : 30, i === 0 ? 10 : 25]));
  t.regex(
    better,
    /In 1 of 4 thought models the importance-weighted bound lies below .* \(T_fast 4, N 24\); .* 0\.5500 ± .* below it/,
  );
  t.regex(
    better,
    /In 1 of 4 thought models the continuation loss, averaged over draws, lies below .* \(T_fast 4, N 12\)/,
  );
});

/** Stories in miniature, in every file that the runs read. */
async function miniature(): Promise<Setup> {
  const folder = sharedFolder();
  const own = { ...small, data: join(folder, "data"), runs: join(folder, "runs") };
  await mkdir(own.data, { recursive: true });
  const story = "Once upon a time a little fox went to the big river. She saw a red ball there.\n<|endoftext|>\n";
  for (const name of ["tinystories.train", "tinystories.valid", "storybooks", "gutenberg-children"])
    await writeFile(join(own.data, `${name}.txt`), story.repeat(4));
  return own;
}

test("the whole comparison in miniature, interrupted and gone on with", async (t) => {
  const setup = await miniature();
  await using engine = await createEngine({ threads: 1 });
  const controller = new AbortController();
  const lines: string[] = [];
  const report = (line: string) => {
    lines.push(line);
    if (line.startsWith("t1-n4: step ")) controller.abort(new Error("enough"));
  };
  await t.throwsAsync(compareThoughts({ engine, setup, signal: controller.signal, report }), { message: "enough" });
  const work = { engine, setup, signal: undefined, report };
  const comparison = await compareThoughts(work);
  t.is(lines.filter((line) => line.endsWith("found before")).length, 3 * 3);
  const { rows, effects } = comparison;
  t.is(rows.length, 5);
  t.is(effects.length, 4);
  t.deepEqual(await compareThoughts(work), comparison);
  t.regex(page(setup, comparison), /^# More thought, more latents\n/);

  const [baseline, first, second] = rows;
  t.is(baseline!.whole.thought, undefined);
  t.is(first!.fastSteps, 3 * 4);
  t.is(second!.fastSteps, 2 * 3 * 4);
  // The figures are those of `evaluate`.
  const file = join(setup.data, "tinystories.valid.txt");
  await using model: ThoughtModel = await engine.load(join(setup.runs, "t2-n2", "run"), { family: "thought" });
  const judged = { limit: 3, draws: 4 };
  const whole = await evaluate(model, file, { ...judged, sameNoise: true });
  t.is(second!.whole.nats.value, whole.bound);
  t.is(second!.whole.nats.standardError, whole.standardError);
  t.is(second!.whole.thought!.importanceWeighted.value, whole.importanceWeighted!);
  t.is(second!.whole.terms!.kl.value, whole.thought!.kl);
  t.is(second!.whole.terms!.same_noise_nelbo.value, whole.sameNoiseNelbo!);
  const continued = await evaluate(model, file, { ...judged, prefix: 4 });
  t.is(second!.continued.nats.value, continued.bound);
  t.is(second!.continued.terms, undefined);

  // A table with fewer cells has the same ones; other settings are another comparison.
  const part = await compareThoughts({ ...work, setup: { ...setup, latents: [2] } });
  t.deepEqual(part.rows, rows.slice(0, 3));
  await t.throwsAsync(compareThoughts({ ...work, setup: { ...setup, rate: 0.02 } }), { message: /other settings/ });
});
