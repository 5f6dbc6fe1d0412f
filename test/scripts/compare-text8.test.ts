import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { createEngine } from "../../lib/index.js";
import { compareText8, page } from "../../scripts/compare-text8.js";
import { configurations, type Setup, stageSteps, trainings } from "../../scripts/text8-configurations.js";
import { CUT, cutText8 } from "../../scripts/text8-cut.js";
import { estimate, findings, levels, type Row, rowsOf, stackTable, table } from "../../scripts/text8-report.js";
import type { Result } from "../../scripts/text8-runs.js";
import { sharedFolder } from "../lib/temporary.js";
import { miniature, small } from "./small-text8.js";

test("nine configurations, each with all the layers and all the tokens", (t) => {
  const setup: Setup = { ...small, layers: [1, 2, 3] };
  const made = configurations(setup);
  t.is(made.length, 9);
  t.is(new Set(made.map(({ name }) => name)).size, 9);
  for (const configuration of made) {
    const flows = configuration.stages.flat();
    const layers = flows.reduce((sum, { numLayers }) => sum + numLayers, 0);
    t.is(layers, configuration.kind === "autoregressive" ? 0 : 6);
    t.is(
      stageSteps(configuration, setup).reduce((sum, steps) => sum + steps, 0),
      32,
    );
    t.deepEqual(
      flows.map(({ direction }) => direction),
      ["forward", "reverse", "forward"].slice(0, flows.length),
    );
  }
  const beginnings = made.flatMap((configuration) =>
    trainings(configuration, setup).map((options) => options.beginnings),
  );
  t.deepEqual(new Set(beginnings), new Set([undefined, 0.1]));
  t.deepEqual(stageSteps(made.at(-1)!, setup), [5, 11, 16]);
  const [first, second] = trainings(made.at(-1)!, setup);
  t.like(first, { run: join("runs", "mixture-rosenblatt-3-flow-by-flow", "stage-1"), steps: 5 });
  t.like(second, { init: first!.run, stage: 1, shape: undefined, steps: 11 });
  t.is(first!.flow!.flows[0]!.numComponents, undefined, "the codebook");
  t.is(second!.flow!.flows[0]!.numComponents, 2);
});

test("the cut of text8 is its beginning, in three parts; what is no text8 is refused", async (t) => {
  const folder = sharedFolder();
  const file = join(folder, "text8");
  await writeFile(file, " anarchism originated as a term");
  const parts = { train: 10, valid: 3, test: 7 };
  await cutText8(file, join(folder, "cut"), parts);
  const read = (name: string) => readFile(join(folder, "cut", `${name}.txt`), "utf8");
  t.deepEqual(await Promise.all(["train", "valid", "test"].map(read)), [" anarchism", " or", "iginate"]);
  t.is(
    Object.values(CUT).reduce((sum, size) => sum + size, 0),
    12_549_840,
  );
  await t.throwsAsync(cutText8(file, folder), { message: /text8 has 31 bytes, expected text8, of which 12549840/ });
  await writeFile(file, "PK\u0003\u0004 packed, as it is downloaded");
  await t.throwsAsync(cutText8(file, folder, parts), { message: /byte 80 at 0, expected letters a-z and spaces/ });
});

test("bits per character are a ratio of totals", (t) => {
  const { bits, standardError } = estimate([2 * Math.LN2, 4 * Math.LN2], [1, 1]);
  t.is(bits, 3);
  t.true(Math.abs(standardError - 1) < 1e-12);
});

/** Windows of 10 tokens that cost so many nats, and what the flows above the first take off each. */
const readings = [0.85, 0.5, 0.125];
function resultWith(nats: number[], gains: number[][] = []): Result {
  const above = gains.reduce((sum, gain) => sum + gain[0]!, 0);
  return {
    ...{ parameters: 1.5e6, trainingTokens: 2e6, tokensPerSecond: 33_000, tokens: nats.map(() => 10), nats },
    gains: gains.length === 0 ? [] : [nats.map((own) => own + above), ...gains],
  };
}

function rowsWith(stackNats: number[]): Row[] {
  const made = configurations(small);
  const found = made.map((configuration) => {
    const flows = configuration.stages.flat().length;
    const gains = [
      [1, 1.1, 0.9],
      [0, 0.1, -0.1],
    ];
    const result = flows === 3 ? resultWith(stackNats, gains) : resultWith([20, 21, 22], flows === 1 ? [] : undefined);
    return { configuration, result, ...(flows === 3 && { readings }) };
  });
  return rowsOf(found, small);
}

test("the tables, and what they say", (t) => {
  const rows = rowsWith([22, 23.1, 23.9]);
  t.regex(table(rows), /\| autoregressive \| 3 \| jointly \| 3\.0297 ± 0\.0833 \| 1\.50 M \| 2\.00 M \|/);
  t.regex(table(rows), /\| affine \| 1 \+ 1 \+ 1 \| jointly \| at most 3\.3182 /);
  const lines = stackTable(rows).split("\n");
  t.is(lines.length, 2 + 5);
  t.regex(
    lines[2]!,
    /\| affine \| jointly \| .* \| 0\.1443 ± 0\.0083 \| 0\.0000 ± 0\.0083 \| -0\.2885 ± 0\.0083 \| 85\.0 %, 50\.0 %, 12\.5 % \|/,
  );
  const told = levels(rows);
  t.regex(told, /^Which flows take 10 % or more/);
  t.is(told.match(/every one\./g)?.length, 5);
  const [flat] = rows.filter(({ kind, stack }) => kind === "affine" && stack);
  const mixed = rows.map((row) =>
    row === flat ? { ...row, stack: { ...row.stack!, readings: [0.95, 0.5, 0.1] } } : row,
  );
  t.regex(
    levels(mixed),
    /- affine, trained jointly: the second and the third\.\n- mixture-cdf, trained jointly: every one\./,
  );
  t.regex(findings(rows), /^At this budget no flow above a first one pays for certain/);
  t.regex(findings(rows), /- affine, trained jointly: .*take 0\.1443 .* the stack is 0\.2885 ± .* bits worse/);
  t.regex(findings(rows), /lies 0\.0000 ± 0\.0000 bits per character above the autoregressive/);
  const better = findings(rowsWith([18, 19.1, 19.9]));
  t.regex(better, /^At this budget flows above the first pay in 5 of 5 stacks: affine \(jointly\), /);
  t.regex(better, /lies 0\.2885 ± 0\.0083 bits per character below/);
  t.regex(findings(rowsWith([19.5, 21, 22.5])), /do not differ for certain/);
});

test("the whole comparison in miniature, interrupted and gone on with", async (t) => {
  const setup = await miniature(small);
  await using engine = await createEngine({ threads: 1 });
  const controller = new AbortController();
  const lines: string[] = [];
  const report = (line: string) => {
    lines.push(line);
    if (line.startsWith("mixture-cdf-3: step 1")) controller.abort(new Error("enough"));
  };
  await t.throwsAsync(compareText8({ engine, setup, signal: controller.signal, report }), { message: "enough" });
  const rows = await compareText8({ engine, setup, signal: undefined, report });
  t.is(lines.filter((line) => line.endsWith("result found before")).length, 4);
  t.is(rows.length, 9);
  for (const { name, bitsPerCharacter, trainingTokens, parameters, stack } of rows) {
    t.true(bitsPerCharacter.bits > 2 && bitsPerCharacter.bits < 12 && bitsPerCharacter.standardError > 0, name);
    t.is(trainingTokens, setup.tokens, name);
    t.true(parameters > 1000, name);
    if (!stack) continue;
    t.is(stack.gains.length, 2);
    t.is(stack.readings.length, 3);
    t.true(stack.readings.every((share) => share > 0 && share <= 1));
    t.true(Math.abs(stack.first.bits - stack.together.bits - bitsPerCharacter.bits) < 1e-4, name);
  }
  const again = await compareText8({ engine, setup, signal: undefined, report });
  t.deepEqual(again, rows);
  t.regex(page(setup, rows), /^# Flows on text8\n/);
  const other = { ...setup, rate: 0.02 };
  await t.throwsAsync(compareText8({ engine, setup: other, signal: undefined, report }), { message: /other settings/ });
  t.regex(await readFile(join(setup.runs, "affine-3", "stage-1", "config.json"), "utf8"), /"noema-flow"/);
});
