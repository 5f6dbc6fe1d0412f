import test from "ava";
import { type ThoughtCardParts, thoughtCard } from "../../scripts/tales-thought-card.js";

const config = {
  ...{ hiddenSize: 256, numHeads: 4, numLayers: 6, intermediateSize: 704, vocabSize: 4096, maxPositions: 256 },
  ...{ attentionWindow: 128, numLatents: 24, tiedEmbeddings: false, inference: { steps: 16 } },
};
const found = {
  ...{ kind: "upper", nats: 900, tokens: 300, bound: 3, standardError: 0.0123, drawError: 0.01, sequences: 12 },
  ...{ perplexity: Math.exp(3), bitsPerCharacter: 1.1, bitsPerByte: 1.09, characters: 1200, bytes: 1210 },
  ...{ draws: 8, form: "fresh-noise", length: 256, importanceWeighted: 2.98 },
  thought: { crossEntropy: 2.9, kl: 0.1, steps: 16 },
};
const parts = {
  model: { info: { parameters: 7_450_000, config } },
  heldOut: found,
  continuation: { ...found, bound: 2.8, standardError: 0.02 },
  sameNoiseNelbo: 2.5,
  thinking: [0, 16, 64].map((steps) => ({ ...found, thought: { crossEntropy: 3 - steps / 64, kl: 0.1, steps } })),
  texts: ["Once upon a time\nthere was a *cat*."],
  anneal: 20,
  state: { step: 100, tokens: 819_200, seconds: 7200 },
  metrics: [{ type: "step", step: 1, loss: 5, rate: 1e-3, gradientNorm: 1, tokensPerSecond: 100, seconds: 1 }],
  options: {
    ...{ run: "runs/tales", steps: 100, batch: 32, length: 256, rate: 1.5e-3, warmup: 300, schedule: "cosine" },
    ...{ floor: 0.1, weightDecay: 0.1, clip: 1, ema: 0.999, fitSteps: 0 },
    corpus: ["a", "b", "c"],
  },
} as unknown as ThoughtCardParts;

test("the thought card's figures come from the run's records and from evaluation", (t) => {
  const text = thoughtCard(parts);
  for (const fact of [
    "7.45 M parameters",
    "a thought of 24 vectors",
    "Each block reads 4 of",
    "an embedding and a head of 4096 byte-level tokens",
    "3.0000 ± 0.0123",
    "cross-entropy of 2.9000 and a KL divergence of 0.1000",
    "(IWAE-8): at most 2.9800",
    "at most 2.8000 ± 0.0200",
    "same_noise_nelbo 2.5000",
    "| 0 | 3.0000 ± 0.0123 | 3.0000 | 0.1000 |\n| 16 | 3.0000 ± 0.0123 | 2.7500 | 0.1000 |\n| 64 | 3.0000 ± 0.0123 | 2.0000 |",
    "but for the branch, where it had the model's own 16 steps",
    "1. Once upon a time there was a \\*cat\\*.",
  ])
    t.true(text.includes(fact), fact);
  t.false(/undefined|NaN|autoregressive/.test(text));
});

test("continuations are compared with those of a baseline where there is one", (t) => {
  const compared = { bound: 2.75, standardError: 0.03, parameters: 6_900_000 };
  t.true(thoughtCard({ ...parts, compared }).includes("(6.90 M parameters)"));
  t.true(thoughtCard({ ...parts, compared }).includes("has 2.7500 ± 0.0300"));
});

test("the rise of the divergence's weight is told, and a run that ended before its end is no model", (t) => {
  const rising = (klWarmup: number) => thoughtCard({ ...parts, options: { ...parts.options, klWarmup } });
  t.regex(rising(100), /In the first 100 steps the divergence's weight rose to 1\./);
  t.false(rising(0).includes("rose"));
  t.throws(() => rising(101), { message: /at step 100, before the end of its klWarmup of 101/ });
});
