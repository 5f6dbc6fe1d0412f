import test from "ava";
import { configOf, freshWeights } from "../../../lib/training/initialise.js";
import { resolveOptions, type TrainOptions } from "../../../lib/training/options.js";
import { tinyConfig } from "./fake.js";

const config = { ...tinyConfig, hiddenSize: 64, intermediateSize: 96, vocabSize: 500, numLayers: 8 };
const vocabulary = (tokens: Record<string, number>, vocabSize = 100) => ({
  path: "tokenizer.json",
  vocabSize,
  idOf: (token: string) => tokens[token],
  checkFits: (rows: number) => {
    if (rows < vocabSize) throw new Error("too few rows");
  },
});

test("norms are 1, matrices normal with 0.02, residual projections scaled by 1 / sqrt(2 L)", (t) => {
  for (const { name, shape, data } of freshWeights(config, 3)) {
    t.is(
      data.length,
      shape.reduce((a, b) => a * b, 1),
    );
    if (shape.length === 1) {
      t.true(
        data.every((value) => value === 1),
        name,
      );
      continue;
    }
    const mean = data.reduce((sum, x) => sum + x, 0) / data.length;
    const deviation = Math.sqrt(data.reduce((sum, x) => sum + (x - mean) ** 2, 0) / data.length);
    const expected = /\.(o|down)\.weight$/.test(name) ? 0.02 / 4 : 0.02;
    t.true(Math.abs(deviation / expected - 1) < 0.06, `${name}: ${deviation}`);
    t.true(Math.abs(mean) < (5 * expected) / Math.sqrt(data.length), `${name}: ${mean}`);
  }
});

test("weights depend on the seed alone, and tensors differ", (t) => {
  t.deepEqual(freshWeights(config, 3), freshWeights(config, 3));
  const [a, b] = [freshWeights(config, 3), freshWeights(config, 4)];
  t.notDeepEqual(a[0]!.data, b[0]!.data);
  const find = (name: string) => a.find((tensor) => tensor.name === name)!.data;
  t.notDeepEqual(find("layers.0.q.weight"), find("layers.0.k.weight"));
  t.notDeepEqual(find("layers.0.q.weight"), find("layers.1.q.weight"));
});

test("a fresh config takes its ids from the tokenizer and its sizes from the shape", async (t) => {
  const tokens = { "<|mask|>": 1, "<|endoftext|>": 0, "<|pad|>": 2 };
  const made = await configOf(
    { run: "r", shape: { hidden: 96, heads: 3, layers: 2 } },
    { length: 32, readouts: 0 },
    vocabulary(tokens),
  );
  t.like(made, { maskTokenId: 1, eosTokenId: 0, padTokenId: 2, vocabSize: 100, maxPositions: 32, numKvHeads: 3 });
  t.like(made, { intermediateSize: 256, tiedEmbeddings: true });
});

test("a tokenizer without a mask, and sizes that do not fit, are refused", async (t) => {
  const noMask = configOf({ run: "r" }, { length: 8, readouts: 0 }, vocabulary({}));
  await t.throwsAsync(noMask, { code: "ERR_BAD_TOKENIZER", message: /no mask token/ });
  const odd = configOf(
    { run: "r", shape: { hidden: 100, heads: 3 } },
    { length: 8, readouts: 0 },
    vocabulary({ "<|mask|>": 1 }),
  );
  await t.throwsAsync(odd, { message: /n_heads/ });
});

const base: TrainOptions = { run: "r", corpus: ["c"], tokenizer: "t" };

test("options: defaults, what stands for others, and what is refused", (t) => {
  const settings = resolveOptions({ ...base, length: 128, batch: 64, steps: 10 });
  t.like(settings, { microBatch: 32, stopAt: 10, precision: "bf16", times: "low-variance", ema: 0.999 });
  t.is(resolveOptions({ ...base, stopAt: 99, steps: 10 }).stopAt, 10);
  t.throws(() => resolveOptions({ ...base, learningrate: 1 } as TrainOptions), { code: "ERR_UNKNOWN_OPTION" });
  t.throws(() => resolveOptions({ ...base, stpes: 1 } as TrainOptions), { message: /did you mean "steps"/ });
  t.throws(() => resolveOptions({ ...base, shape: { hiden: 1 } as object }), { message: /did you mean "hidden"/ });
  t.throws(() => resolveOptions({ ...base, schedule: "cosin" as "cosine" }), { message: /did you mean "cosine"/ });
  t.throws(() => resolveOptions({ ...base, changes: ["saveEvery"] }), { code: "ERR_UNKNOWN_OPTION" });
  t.throws(() => resolveOptions({ ...base, steps: 0 }), {
    code: "ERR_INVALID_ARGUMENT",
    message: /steps is 0, expected an integer 1/,
  });
  t.throws(() => resolveOptions({ ...base, rate: Number.NaN }), {
    code: "ERR_INVALID_ARGUMENT",
    message: /rate is NaN/,
  });
  t.throws(() => resolveOptions({ ...base, batch: 2.5 }), { code: "ERR_INVALID_ARGUMENT", message: /batch is 2.5/ });
  t.throws(() => resolveOptions({ ...base, corpus: [] }), { message: /corpus/ });
  t.throws(() => resolveOptions({ run: "r", corpus: ["c"] }), { message: /tokenizer/ });
  t.throws(() => resolveOptions({ ...base, init: "m", shape: {} }), { message: /shape/ });
});
