import test from "ava";
import { planTable, returnedText } from "../../scripts/report-inversion.js";
import { type FlowCardParts, flowCard } from "../../scripts/tales-flow-card.js";

const config = {
  ...{ hiddenSize: 256, numHeads: 4, intermediateSize: 704, vocabSize: 4096, latentSize: 16, maxPositions: 256 },
  flows: [
    { kind: "affine", direction: "reverse", numLayers: 2 },
    { kind: "mixture-rosenblatt", direction: "forward", numLayers: 6 },
  ],
};
const parts = {
  about: {
    ...{ name: "tales-flow", introduction: "A flow that tells stories", symbols: "byte-level tokens" },
    ...{ training: "Trained by a test", draw: { temperature: 0.9, topP: 0.9 }, tokens: 160 },
  },
  model: { info: { parameters: 8_600_000, config } },
  heldOut: {
    ...{ kind: "upper", nats: 900, tokens: 300, bound: 3, standardError: 0.0123, drawError: 0.01, sequences: 12 },
    ...{ perplexity: Math.exp(3), bitsPerCharacter: 1.1, bitsPerByte: 1.09, characters: 1200, bytes: 1210 },
    ...{ draws: 8, form: "telescoped", length: 256, importanceWeighted: 2.99 },
  },
  texts: ["Once upon a time\nthere was a *cat*."],
  drafts: [
    { level: 2, agreement: 0.05, milliseconds: 0 },
    { level: 1, agreement: 0.75, milliseconds: 90 },
    { level: 0, agreement: 1, milliseconds: 120 },
  ],
  readings: { crossEntropy: [1.5, 6], accuracy: [0.8, 0.04] },
  anneal: 0,
  state: { step: 100, tokens: 819_200, seconds: 7200 },
  metrics: [
    { type: "step", step: 1, loss: 5, rate: 1e-3, gradientNorm: 1, tokensPerSecond: 100, seconds: 1 },
    { type: "held-out", step: 1, flows: { gains: [15.5, 12.5], meanSquares: [], kurtosis: [], separation: 3 } },
  ],
  options: {
    ...{ run: "runs/tales", steps: 100, batch: 32, length: 256, rate: 1.5e-3, warmup: 300, schedule: "cosine" },
    ...{ floor: 0.1, weightDecay: 0.1, clip: 1, ema: 0.999 },
    corpus: ["a", "b", "c"],
  },
} as unknown as FlowCardParts;

test("the flow card's figures come from the runs' records", (t) => {
  const text = flowCard(parts);
  for (const fact of [
    "# tales-flow",
    "8.60 M parameters in bf16: 4096 byte-level tokens",
    "Trained by a test; it continues prompts",
    "top-p 0.9 at temperature 0.9, the flow below inverted sequentially, at most 160 tokens",
    "1. 2 blocks, affine, reverse",
    "3.0000 ± 0.0123",
    "2.9900 nats per token",
    "would reach 15.500;\nflow 2 takes off 12.500",
    "| 1 | 80.0 % | 75.0 % | 90 |",
    "| 0, the data's latents |  | 100.0 % | 120 |",
    "1. Once upon a time there was a \\*cat\\*.",
  ])
    t.true(text.includes(fact), fact);
  t.false(/undefined|NaN/.test(text));
  t.true(text.includes("| bits per byte | 1.0900 |"));
});

test("a card of a tokenizer that folds text tells nothing of bytes", (t) => {
  const about = { ...parts.about, symbol: "letter or mark" };
  const text = flowCard({ ...parts, about, heldOut: { ...parts.heldOut, isAltered: true } });
  t.true(text.includes("| bits per letter or mark, as the tokenizer spells the text | 1.1000 |"));
  t.false(text.includes("bits per byte"));
});

test("what a stack can be drawn from is said as it is", (t) => {
  const { about, ...rest } = parts;
  const card = flowCard({ ...rest, about: { ...about, draw: { temperature: 0.9 } } });
  t.true(card.includes("--document-start --temperature 0.9 --seed 7"));
  t.true(card.includes("`documentStart`, base noise at temperature 0.9, all flows inverted sequentially"));
});

test("the report of inversions says what was lost, and counts every way", (t) => {
  const returned = { sequences: 4, tokens: 1000, lostTokens: 1, lostSequences: 1, misread: 1, changed: 0 };
  const text = returnedText({ ...returned, secondsPerSequence: 0.25 });
  for (const fact of ["1 tokens in 1 sequences", "99.9000 %", "4 of 4 sequences", "0.250 s"])
    t.true(text.includes(fact), fact);
  const table = planTable([
    { flow: 1, plan: { method: "sequential" }, milliseconds: 12.34, sweeps: 256, residual: 4.76e-7, differing: 0 },
    {
      flow: 0,
      plan: { method: "jacobi", modules: 16, fromZeros: true },
      milliseconds: 5,
      sweeps: 40.5,
      residual: 0.00125,
      differing: 3,
    },
  ]);
  t.true(table.includes("| 2 | sequential | 256.0 | 12.3 | 4.8e-7 | 0 |"));
  t.true(table.includes("| 1 | jacobi, 16 modules, from zeros | 40.5 | 5.0 | 1.3e-3 | 3 |"));
});
