import test from "ava";
import { fillNormals, latentNoise } from "../../lib/normals.js";
import { Rng, RngStream } from "../../lib/rng.js";

const draws = (n: number, seed = 3): Float32Array => latentNoise(seed, n);

test("normal: mean, deviation, fourth moment, no neighbours alike", (t) => {
  const values = draws(200_000);
  const moment = (power: number) => values.reduce((sum, x) => sum + x ** power, 0) / values.length;
  t.true(Math.abs(moment(1)) < 0.01);
  t.true(Math.abs(moment(2) - 1) < 0.01);
  t.true(Math.abs(moment(4) - 3) < 0.06);
  const products = values.subarray(1).reduce((sum, x, i) => sum + x * values[i]!, 0) / values.length;
  t.true(Math.abs(products) < 0.01);
  t.true(values.every(Number.isFinite));
});

test("the normals that posterior_update draws", (t) => {
  const place = { stream: RngStream.thought, step: 5 };
  const values = fillNormals(new Rng(7), place, new Float32Array(8200));
  // The same numbers as in test/ops/posterior_update.cpp.
  const known: [number, number][] = [
    [0, -0.8334973454475403],
    [1, 0.4536256790161133],
    [2, -0.07972877472639084],
    [3, -0.2129797637462616],
    [4, 1.5971965789794922],
    [4095, -0.8268605470657349],
    [4096, -1.741309404373169],
    [4097, -1.1739437580108643],
    [8191, 0.5575200319290161],
    [8199, 1.0723812580108643],
  ];
  for (const [i, value] of known) t.true(Math.abs(values[i]! - value) < 1e-6, `draw ${i}`);
});

test("more draws start with fewer; seeds, streams and rows differ; a scale scales", (t) => {
  t.deepEqual(draws(10_001).subarray(0, 5000), draws(5000));
  t.notDeepEqual(draws(100, 4), draws(100));
  const fill = (place: object, scale?: number) =>
    fillNormals(new Rng(3), { stream: RngStream.latent, ...place }, new Float32Array(5), scale);
  t.notDeepEqual(fill({ row: 1 }), fill({}));
  t.notDeepEqual(fill({ step: 1 }), fill({}));
  t.deepEqual(fill({ row: 1 }), draws(8192).slice(4096, 4101), "every 4096 draws are a row");
  t.deepEqual(
    fill({}, 2),
    fill({}).map((x) => 2 * x),
  );
  t.deepEqual(draws(0), new Float32Array(0));
});
