import test from "ava";
import fc from "fast-check";
import { Batches } from "../../../lib/training/batches.js";
import type { Corpus } from "../../../lib/training/corpus.js";

/** A corpus whose token at i is base + i. */
function counting(tokens: number, base = 0): Corpus {
  const read = async (start: number, out: Int32Array) => {
    out.forEach((_, i) => {
      out[i] = base + ((start + i) % tokens);
    });
  };
  return { tokens, read } as unknown as Corpus;
}

async function windows(batches: Batches, steps: number): Promise<number[][]> {
  const found: number[][] = [];
  for (let step = 0; step < steps; step++) {
    const ids = await batches.batch(step);
    for (let row = 0; row < batches.batchSize; row++) {
      found.push([...ids.subarray(row * batches.length, (row + 1) * batches.length)]);
    }
  }
  return found;
}

test("an epoch visits every window of its pass once, at an offset of its own", async (t) => {
  const shape = fc.record({
    tokens: fc.integer({ min: 5, max: 200 }),
    length: fc.integer({ min: 1, max: 5 }),
    seed: fc.nat(),
  });
  const property = fc.asyncProperty(shape, async ({ tokens, length, seed }) => {
    const batches = new Batches([{ corpus: counting(tokens) }], { seed, batch: 1, length });
    const count = Math.floor(tokens / length);
    t.is(batches.epochWindows, count);
    const found = await windows(batches, 2 * count);
    for (const epoch of [found.slice(0, count), found.slice(count)]) {
      for (const window of epoch)
        t.deepEqual(
          window,
          Array.from(window, (_, i) => (window[0]! + i) % tokens),
        );
      t.is(new Set(epoch.flat()).size, count * length);
    }
  });
  await fc.assert(property, { numRuns: 30 });
});

test("a step's batch depends on seed and step alone", async (t) => {
  const options = { seed: 7n, batch: 3, length: 4 };
  const make = (seed: bigint | number = 7n) => new Batches([{ corpus: counting(103) }], { ...options, seed });
  const all = make();
  const inOrder: Int32Array[] = [];
  for (let step = 0; step < 40; step++) inOrder.push(await all.batch(step));
  for (const step of [39, 0, 17, 8, 9, 38, 1]) t.deepEqual(await make().batch(step), inOrder[step]);
  for (const step of [39, 0, 17, 8, 9, 38, 1]) t.deepEqual(await all.batch(step), inOrder[step]);
  t.notDeepEqual(await make(8).batch(0), inOrder[0]);
  t.deepEqual(await make(7).batch(5), inOrder[5]);
});

test("the batch size only cuts the same sequence of windows differently", async (t) => {
  const make = (batch: number) => new Batches([{ corpus: counting(90) }], { seed: 1, batch, length: 5 });
  t.deepEqual(await windows(make(4), 15), await windows(make(10), 6));
});

test("weights: visits in proportion, passes of every corpus complete", async (t) => {
  const sources = [
    { corpus: counting(100), weight: 2.5 },
    { corpus: counting(60, 1000), weight: 0.5 },
    { corpus: counting(41, 2000) },
  ];
  const batches = new Batches(sources, { seed: 3, batch: 1, length: 10 });
  t.is(batches.epochWindows, 25 + 3 + 4);
  const found = (await windows(batches, 2 * batches.epochWindows)).map((window) => window[0]!);
  const of = (from: number) => found.filter((start) => start >= from && start < from + 1000);
  t.deepEqual(
    [of(0), of(1000), of(2000)].map((list) => list.length),
    [50, 6, 8],
  );
  // Two epochs are five passes of the first corpus: its visits share five offsets, ten windows each.
  const offsets = new Map<number, number>();
  for (const start of of(0)) offsets.set(start % 10, (offsets.get(start % 10) ?? 0) + 1);
  t.true([...offsets.values()].every((count) => count % 10 === 0));
  t.is(new Set(of(1000)).size, 6);
});

test("epochs differ in order", async (t) => {
  const batches = new Batches([{ corpus: counting(640) }], { seed: 5, batch: 10, length: 1 });
  const found = (await windows(batches, 128)).flat();
  t.notDeepEqual(found.slice(0, 640), found.slice(640));
  t.notDeepEqual(
    found.slice(0, 640),
    [...found.slice(0, 640)].sort((a, b) => a - b),
  );
});

test("refusals", (t) => {
  const options = { seed: 0, batch: 2, length: 8 };
  const short = () => new Batches([{ corpus: counting(7) }], options);
  t.throws(short, { code: "ERR_BAD_CORPUS", message: /too short: 7 tokens, expected at least the 8/ });
  const sources = [{ corpus: counting(50) }];
  t.throws(() => new Batches([], options), { code: "ERR_INVALID_ARGUMENT" });
  for (const changes of [{ batch: 0 }, { length: 1.5 }, { length: Number.NaN }, { seed: -1 }]) {
    t.throws(() => new Batches(sources, { ...options, ...changes }), { code: "ERR_INVALID_ARGUMENT" });
  }
  for (const weight of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
    t.throws(() => new Batches([{ ...sources[0]!, weight }], options), {
      code: "ERR_INVALID_ARGUMENT",
      message: /weight/,
    });
  }
});
