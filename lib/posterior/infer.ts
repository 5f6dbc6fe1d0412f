/** Thoughts of texts: the fast loop, many texts at a time, each independent of the others to the bit. */

import { mapPartial } from "../cancellation.js";
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
  onProgress?: ((steps: number, objective: Float32Array) => void) | undefined;
  /** Steps between two reports. */
  progressEvery?: number;
}

/** Of fits that end early, the error's `partial` are the thoughts as they then were, if the fits had begun. */
export async function fitAll(host: ThoughtCore, task: FitTask): Promise<Thought[]> {
  const { native, config, sizes } = host;
  const { texts, seeds, settings, cancellation, onProgress, progressEvery = 1 } = task;
  const thoughts = (fitted: FitResult) => texts.map((text, b) => thoughtOf(fitted, b, { sizes, tokens: text.length }));
  const request = {
    ...textBatch(
      texts.map((ids) => ({ ids })),
      config.bosTokenId,
    ),
    seeds: BigUint64Array.from(seeds),
    // A loop that nobody watches may be recorded: rounds and refits go through it again, as do drafts of other calls.
    fit: { ...settings, score: true, repeated: !onProgress },
    ...(cancellation && { cancellation }),
    ...(onProgress && { onProgress, progressEvery }),
  };
  try {
    return thoughts(await native.fit(request));
  } catch (error) {
    throw mapPartial(error, (left: FitResult) => (left.mean.length > 0 ? thoughts(onlySteps(left)) : undefined));
  }
}

export interface WatchedFit extends Pick<FitTask, "settings" | "progressEvery"> {
  text: ArrayLike<number>;
  seed: bigint;
  cancellation: NativeCancellation;
  onProgress: ((progress: FitProgress) => void) | undefined;
}

/** One text's thought. What the listener throws would be lost in the native callback: it ends the fit, and comes out of it. */
export async function fitOne(host: ThoughtCore, { text, seed, onProgress, ...task }: WatchedFit): Promise<Thought> {
  let failure: { error: unknown } | undefined;
  const report = (steps: number, objective: Float32Array) => {
    try {
      if (!failure) onProgress?.({ steps, objective: objective[0]! });
    } catch (error) {
      failure = { error };
      task.cancellation.cancel();
    }
  };
  const fits = fitAll(host, { ...task, texts: [text], seeds: [seed], onProgress: onProgress && report });
  const [fitted] = await Promise.allSettled([fits]);
  if (failure) throw failure.error;
  if (fitted.status === "rejected") throw mapPartial(fitted.reason, ([left]: Thought[]) => left);
  return fitted.value[0]!;
}

/** Nothing was handed on of a fit that ended early, so its last figures are those of its last step. */
function onlySteps(fitted: FitResult): FitResult {
  const taken = Math.max(...fitted.steps);
  return { ...fitted, crossEntropy: fitted.crossEntropy.slice(0, taken), kl: fitted.kl.slice(0, taken) };
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
