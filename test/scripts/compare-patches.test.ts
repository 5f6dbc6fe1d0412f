import test from "ava";
import { createEngine, type FlowConfig } from "../../lib/index.js";
import { comparePatches, page } from "../../scripts/compare-patches.js";
import { compareText8 } from "../../scripts/compare-text8.js";
import { type PatchRow, patchFindings, patchTable, workOf } from "../../scripts/patches-report.js";
import { miniature, small } from "./small-text8.js";

const config: FlowConfig = {
  ...{ layout: "noema-flow", vocabSize: 10, latentSize: 2, patchSize: 2, hiddenSize: 8, numHeads: 1 },
  ...{ intermediateSize: 12, ropeTheta: 10000, rmsNormEps: 1e-5, maxPositions: 4 },
  ...{ channelMix: false, prefixConditioning: true },
  flows: [{ kind: "affine", direction: "forward", numLayers: 3 }],
};

test("the work of a token: products, attention, terms of mixtures", (t) => {
  // Per position: input and context 8 x 4, three blocks of 4 x 64 + 3 x 96, a head of 8 x 8; attention over 2.5 of 4 positions.
  const products = 2 * (32 + 32 + 3 * (256 + 288) + 64);
  t.deepEqual(workOf(config, 8), { flops: (products + 4 * 3 * 8 * 2.5) / 2, terms: 0 });
  const readout = { ...config, flows: [{ ...config.flows[0]!, readoutHiddenSize: 64 }] };
  t.deepEqual(workOf(readout, 8), workOf(config, 8), "readouts are no part of a pass");
  const mixture: FlowConfig = {
    ...config,
    flows: [{ kind: "mixture-rosenblatt", direction: "forward", numLayers: 3 }],
  };
  t.is(workOf(mixture, 8).terms, 20);
  const grouped = { numComponents: 3, mafHiddenSize: 5, mafFeatures: 7 };
  const scalars: FlowConfig = {
    ...mixture,
    flows: [{ kind: "mixture-cdf", direction: "forward", numLayers: 3, ...grouped }],
  };
  t.is(workOf(scalars, 8).terms, 6);
  const head = 2 * (4 * 5 * 8 + (4 * 5 * 3 * 7) / 2 + 4 * 9 * 5);
  t.is(workOf(scalars, 8).flops, (products - 2 * 64 + head + 240) / 2);
});

test("the table, and what it says", (t) => {
  const row = (patchSize: number, bits: number, milliseconds: number): PatchRow => ({
    ...{ name: "", kind: "mixture-cdf", patchSize, bitsPerCharacter: { bits, standardError: 0.01 }, parameters: 1e6 },
    ...{ tokensPerSecond: 25_000, work: { flops: 4e6 / patchSize, terms: 10 } },
    written: { texts: 4, length: 256, milliseconds: { best: milliseconds, median: 2 * milliseconds }, words: 0.75 },
  });
  const rows = [row(1, 2, 40), row(2, 2.125, 25), row(4, 1.75, 20)];
  t.regex(
    patchTable(rows),
    /\| mixture-cdf \| 2 \| 2000 \| 10 \| 25\.0 \(50\.0\) \| 25000 \| 1\.00 M \| at most 2\.1250 ± 0\.0100 \| 75\.0 % \|/,
  );
  t.is(
    patchFindings(rows),
    "- mixture-cdf, P = 2: 2.00 times fewer FLOPs, texts 1.60 times as fast, 0.125 bits per character more.\n" +
      "- mixture-cdf, P = 4: 4.00 times fewer FLOPs, texts 2.00 times as fast, 0.250 bits per character less.",
  );
});

test("in miniature, beside the comparison of flows", async (t) => {
  const setup = await miniature(small);
  await using engine = await createEngine({ threads: 1 });
  const lines: string[] = [];
  const work = { engine, setup, signal: undefined, report: (line: string) => void lines.push(line) };
  await compareText8(work);
  const rows = await comparePatches(work, 3);
  t.is(lines.filter((line) => /-1: result found before$/.test(line)).length, 2, "P = 1 is shared");
  t.deepEqual(
    rows.map(({ patchSize }) => patchSize),
    [1, 2, 4, 1, 2, 4],
  );
  for (const { bitsPerCharacter, parameters, written, work: own, name } of rows) {
    t.true(bitsPerCharacter.bits > 2 && bitsPerCharacter.bits < 15 && parameters > 1000, name);
    t.true(written.milliseconds.best > 0 && written.milliseconds.best <= written.milliseconds.median, name);
    t.is(written.length, setup.length);
    t.true(own.flops > 0 && own.terms > 0);
  }
  t.true(rows[5]!.work.flops < rows[3]!.work.flops);
  t.regex(page(setup, rows, 1), /^# Patches on text8\n/);
});
