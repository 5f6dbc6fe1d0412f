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
