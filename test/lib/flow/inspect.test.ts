import test, { type ExecutionContext } from "ava";
import { type StateStatistics, statisticsOf } from "../../../lib/flow/states.js";
import { latentNoise } from "../../../lib/normals.js";
import { openTiny } from "./tiny-flow.js";

const TEXT = "abcabcabc";

function isClose(t: ExecutionContext, found: StateStatistics, expected: StateStatistics): void {
  for (const name of ["norm", "cosine", "participationRatio", "centroidMove"] as const)
    t.true(Math.abs(found[name] - expected[name]) < 1e-9, `${name}: ${found[name]}, expected ${expected[name]}`);
}

test("a state's statistics, worked out by hand", (t) => {
  // Lengths 5, 2 and 5; cosines 0.8, -1 and -0.8; the mean is (0, 2/3), and the covariance is [[6, 8], [8, 104/9]].
  const state = Float64Array.of(3, 4, 0, 2, -3, -4);
  const directions = (158 / 9) ** 2 / (36 + 2 * 64 + (104 / 9) ** 2);
  const known = { norm: 4, cosine: -1 / 3, participationRatio: directions };
  isClose(t, statisticsOf(state, 2), { ...known, centroidMove: 0 });
  // The mean of the state before is (3, 14/3): a move of (-3, -4).
  const before = Float64Array.of(3, 14, 4, 0, 2, 0);
  isClose(t, statisticsOf(state, 2, before), { ...known, centroidMove: 5 });
});

test("a state's statistics: how many directions a cloud fills", (t) => {
  const ratio = (c: number, ...values: number[]) => statisticsOf(Float64Array.from(values), c).participationRatio;
  t.true(Math.abs(ratio(3, 1, 1, 0, 2, 2, 0, 4, 4, 0) - 1) < 1e-9, "a line");
  t.true(Math.abs(ratio(3, 1, 0, 5, -1, 0, 5, 0, 1, 5, 0, -1, 5) - 2) < 1e-9, "a disc, wherever it is");
  t.true(Math.abs(ratio(3, 2, 0, 0, -2, 0, 0, 0, 2, 0, 0, -2, 0, 0, 0, 2, 0, 0, -2) - 3) < 1e-9, "a ball");
  isClose(t, statisticsOf(Float64Array.of(3, 4), 2), { norm: 5, cosine: 1, participationRatio: 0, centroidMove: 0 });
  // (1,0) and (0,0) and (1,0): the pairs with zero count as 0.
  t.true(Math.abs(statisticsOf(Float64Array.of(1, 0, 0, 0, 1, 0), 2).cosine - 1 / 3) < 1e-9);
});

test("inspecting: every state, its log-determinant and its statistics, each against the state before", async (t) => {
  const { engine, model } = await openTiny();
  const found = await model.inspect(TEXT, { seed: 3 });
  t.like(found, { positions: 9, channels: 4 });
  t.deepEqual(
    found.levels.map(({ level }) => level),
    [0, 1, 2],
  );
  const ids = model.tokenizer!.encode(TEXT);
  const { normals, means, deviations } = await encoder();
  for (const [level, { latents, logDet, ...told }] of found.levels.entries()) {
    t.is(latents.length, 36);
    t.is(logDet?.length, level === 0 ? undefined : 9);
    const { norm, cosine, participationRatio, centroidMove } = told;
    t.deepEqual(
      { norm, cosine, participationRatio, centroidMove },
      statisticsOf(latents, 4, found.levels[level - 1]?.latents),
    );
  }
  // The first state is the codebook's: means, and deviations times the encoder's noise, to the grid that states lie on.
  const [data] = found.levels;
  for (const [i, z] of data!.latents.entries()) {
    const token = ids[Math.floor(i / 4)]!;
    const expected = means[token * 4 + (i % 4)]! + deviations[token]! * normals[i]!;
    t.true(Math.abs(z - expected) < 1e-5, `${z} ${expected}`);
  }
  t.deepEqual(await model.inspect(TEXT, { seed: 3 }), found);
  engine.dispose();

  async function encoder() {
    const trainer = await model.native.trainer({ keepAverage: false });
    const means = await trainer.read("parameter", "codebook.mean");
    const logSigma = await trainer.read("parameter", "codebook.log_sigma");
    trainer.dispose();
    return { normals: latentNoise(3, 36), means, deviations: logSigma.map(Math.exp) };
  }
});

test("inspecting: the positions' shares of the bound are those of the score with the same noise", async (t) => {
  const { engine, model } = await openTiny();
  for (const seed of [0, 3]) {
    const { nelbo } = await model.inspect(TEXT, { seed });
    t.is(nelbo.length, 9);
    const { nats } = await model.score(TEXT, { seed, draws: 1 });
    const total = nelbo.reduce((sum, share) => sum + share, 0);
    t.true(Math.abs(total - nats) < 1e-4, `${total} ${nats}`);
  }
  // Of every position: the codebook's share, less what the flows' maps gain, less the density of its base noise.
  const { ids, nelbo, levels } = await model.inspect(TEXT, { seed: 3 });
  const { logSum } = await model.native.encode({ ids, batch: 1, length: 9, noise: latentNoise(3, 36) });
  for (const [n, nats] of nelbo.entries()) {
    const gains = levels.reduce((sum, { logDet }) => sum + (logDet?.[n] ?? 0), 0);
    const u = levels.at(-1)!.latents.subarray(n * 4, (n + 1) * 4);
    const density = u.reduce((sum, x) => sum - (x * x + Math.log(2 * Math.PI)) / 2, 0);
    t.true(Math.abs(nats - (logSum[n]! - gains - density)) < 1e-3, `${n}: ${nats} ${logSum[n]! - gains - density}`);
  }
  const [one, other] = [await model.inspect(TEXT, { seed: 0 }), await model.inspect(TEXT, { seed: 3 })];
  t.notDeepEqual(one.nelbo, other.nelbo);
  engine.dispose();
});
