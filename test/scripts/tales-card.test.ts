import test from "ava";
import { type CardParts, card } from "../../scripts/tales-card.js";

const config = {
  hiddenSize: 256,
  numLayers: 8,
  numHeads: 4,
  intermediateSize: 704,
  vocabSize: 4096,
  maxPositions: 256,
};
const parts = {
  model: { info: { parameters: 7_475_456, config } },
  heldOut: {
    ...{ kind: "upper", nats: 900, tokens: 300, bound: 3, standardError: 0.0123, drawError: 0.01, sequences: 12 },
    ...{ perplexity: Math.exp(3), bitsPerCharacter: 1.1, bitsPerByte: 1.09, characters: 1200, bytes: 1210 },
    ...{ draws: 8, form: "fixed-count", length: 256 },
  },
  texts: ["Once upon a time\nthere was a *cat*.", "Once upon a time [end] <b>"],
  anneal: 0,
  state: { step: 100, tokens: 819_200, seconds: 7200 },
  metrics: [100, 300, 200].map((tokensPerSecond, i) => ({
    ...{ type: "step", step: i + 1, loss: 5, rate: 1e-3, gradientNorm: 1, tokensPerSecond, seconds: i },
  })),
  options: {
    ...{ run: "runs/tales", steps: 100, batch: 32, length: 256, rate: 1.5e-3, warmup: 300, schedule: "cosine" },
    ...{ floor: 0.1, weightDecay: 0.1, clip: 1, ema: 0.999 },
    corpus: [
      { path: "a", weight: 2 },
      { path: "b", weight: 1 },
      { path: "c", weight: 0.25 },
    ],
  },
} as unknown as CardParts;

test("the card's figures come from the run's records", (t) => {
  const text = card(parts);
  for (const fact of [
    "7.48 M parameters",
    "3.0000 ± 0.0123",
    "20.09",
    "100 of 100 steps of 8192 tokens (0.8 M tokens in 2.0 hours, median 200 tokens per second)",
    "| CC BY | 1 |",
    "CDLA-Sharing-1.0 | 2 |",
    "public domain (US) | 0.25 |",
  ])
    t.true(text.includes(fact), fact);
  t.false(/undefined|NaN/.test(text));
});

test("an annealed branch is said to be one", (t) => {
  t.false(card(parts).includes("branch"));
  t.true(card({ ...parts, anneal: 25 }).includes("The last 25 steps are a branch"));
  t.true(card({ ...parts, anneal: 25 }).includes("the run at step 75"));
});

test("samples are one line each, and their signs are taken literally", (t) => {
  const text = card(parts);
  t.true(text.includes("1. Once upon a time there was a \\*cat\\*."));
  t.true(text.includes("2. Once upon a time \\[end\\] \\<b\\>"));
});
