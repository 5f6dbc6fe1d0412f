/** Thoughts of texts: the fast loop, many texts at a time, each independent of the others to the bit. */

import { textBatch } from "../evaluation/likelihood.js";
import type { FitResult, NativeCancellation, NativeFit } from "../native/addon.js";
import { fillNormals } from "../normals.js";
import { Rng, RngStream } from "../rng.js";
import type { ThoughtCore } from "./core.js";
import { Thought } from "./thought.js";

/** How far a fit has come. */
export interface FitProgress {
  steps: number;
  /** Nats: cross-entropy and KL divergence at the last step, over the whole text. */
  objective: number;
}

export interface FitTask {
  /** Token ids of every text, none empty. */
  texts: readonly ArrayLike<number>[];
  seeds: readonly bigint[];
  settings: NativeFit;
  cancellation?: NativeCancellation | undefined;
  onProgress?: ((at: number, progress: FitProgress) => void) | undefined;
}

/** Steps between two reports. */
const PROGRESS_EVERY = 4;

export async function fitAll(
  host: ThoughtCore,
  { texts, seeds, settings, cancellation, onProgress }: FitTask,
): Promise<Thought[]> {
  const { native, config, sizes } = host;
  const report = (steps: number, objective: Float32Array) => {
    for (const [at, nats] of objective.entries()) onProgress!(at, { steps, objective: nats });
  };
  const fitted = await native.fit({
    ...textBatch(
      texts.map((ids) => ({ ids })),
      config.bosTokenId,
    ),
    seeds: BigUint64Array.from(seeds),
    fit: { ...settings, score: true },
    ...(cancellation && { cancellation }),
    ...(onProgress && { onProgress: report, progressEvery: PROGRESS_EVERY }),
  });
  return texts.map((text, b) => thoughtOf(fitted, b, { sizes, tokens: text.length }));
}

function thoughtOf(fitted: FitResult, b: number, { sizes, tokens }: Pick<Thought["parts"], "sizes" | "tokens">) {
  const size = sizes.latents * sizes.width;
  const own = (values: Float32Array) => values.slice(b * size, (b + 1) * size);
  const curve = { crossEntropy: fitted.crossEntropy.map((step) => step[b]!), kl: fitted.kl.map((step) => step[b]!) };
  return new Thought({
    ...{ sizes, tokens, steps: fitted.steps[b]!, curve },
    ...{ mean: own(fitted.mean), logVariance: own(fitted.logVariance), z: own(fitted.z) },
  });
}

/** A draw from the prior: no text is behind it. Scales below 1 stay nearer to what most texts have in common. */
export function fromPrior({ sizes }: Pick<ThoughtCore, "sizes">, seed: bigint, scale: number): Thought {
  const size = sizes.latents * sizes.width;
  const z = fillNormals(new Rng(seed), { stream: RngStream.latent }, new Float32Array(size), scale);
  const zeros = new Float32Array(size);
  const curve = { crossEntropy: [], kl: [] };
  return new Thought({ sizes, mean: zeros, logVariance: zeros.slice(), z, tokens: 0, steps: 0, curve });
}
