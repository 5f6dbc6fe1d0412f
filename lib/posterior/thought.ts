/** A thought: the posterior of a text's latent vectors and a draw from it, kept, saved, mixed with others. */

import { SafetensorsFile, writeSafetensors } from "../checkpoint/safetensors.js";
import { checkNumber, invalid } from "../decoding/options.js";
import { NoemaError } from "../errors.js";

/** What thoughts of a model are measured by. */
export interface ThoughtSizes {
  /** N, vectors of all layers together. */
  latents: number;
  /** C. */
  width: number;
  /** Of the model that they belong to: thoughts of another mean nothing to it. */
  fingerprint: string;
}

/**
 * How a fit went, step by step; the last figures are those of the draw that was handed on, unless the fit ended early. In nats, over the
 * text's scored tokens.
 */
export interface FitCurve {
  crossEntropy: readonly number[];
  kl: readonly number[];
}

export interface ThoughtParts {
  sizes: ThoughtSizes;
  /** [N,C] of q(z) = N(mean, exp(logVariance)). */
  mean: Float32Array;
  logVariance: Float32Array;
  /** [N,C] a draw. */
  z: Float32Array;
  /** Scored tokens that it was fitted to; 0: no text is behind it, it was drawn from the prior or lies between others. */
  tokens: number;
  /** Steps that were taken. */
  steps: number;
  curve: FitCurve;
}

/** KL of posteriors from the prior, in nats: 1/2 sum(mean² + variance - log variance - 1). */
export function divergence({ mean, logVariance }: Pick<ThoughtParts, "mean" | "logVariance">): number {
  let total = 0;
  for (const [i, m] of mean.entries()) {
    const lv = logVariance[i]!;
    total += m * m + Math.exp(lv) - lv - 1;
  }
  return total / 2;
}

const FORMAT = "noema-thought-1";
const tensorNames = { mean: "mean", logVariance: "log_variance", z: "z" } as const;

export class Thought {
  readonly mean: Float32Array;
  readonly logVariance: Float32Array;
  readonly z: Float32Array;
  readonly tokens: number;
  readonly steps: number;
  readonly curve: FitCurve;
  readonly #sizes: ThoughtSizes;

  /** @internal Use `model.infer`, `model.imagine` or `model.loadThought`. */
  constructor({ sizes, mean, logVariance, z, tokens, steps, curve }: ThoughtParts) {
    this.#sizes = sizes;
    this.mean = mean;
    this.logVariance = logVariance;
    this.z = z;
    this.tokens = tokens;
    this.steps = steps;
    this.curve = curve;
  }

  /** [N, C]. */
  get shape(): [number, number] {
    return [this.#sizes.latents, this.#sizes.width];
  }

  /** KL divergence from the prior of every vector, in nats: N numbers, layer by layer (ltm.md section 1.1). */
  get klPerVector(): Float64Array {
    const { latents, width } = this.#sizes;
    const own = (values: Float32Array, vector: number) => values.subarray(vector * width, (vector + 1) * width);
    return Float64Array.from({ length: latents }, (_, vector) =>
      divergence({ mean: own(this.mean, vector), logVariance: own(this.logVariance, vector) }),
    );
  }

  get kl(): number {
    return this.klPerVector.reduce((sum, own) => sum + own, 0);
  }

  /** Writes a safetensors file: mean, log_variance and z [N,C] in f32, and whose they are. */
  async save(path: string): Promise<void> {
    checkPath(path);
    const { latents, width, fingerprint } = this.#sizes;
    const tensors = Object.entries(tensorNames).map(([key, name]) => {
      return { name, dtype: "F32" as const, shape: [latents, width], data: this[key as keyof typeof tensorNames] };
    });
    const curve = JSON.stringify({ crossEntropy: this.curve.crossEntropy, kl: this.curve.kl });
    const numbers = { tokens: String(this.tokens), steps: String(this.steps), curve };
    await writeSafetensors(path, tensors, { format: FORMAT, model: fingerprint, ...numbers });
  }

  /** ERR_BAD_CHECKPOINT where the file is no thought, is damaged, or belongs to another model. */
  static async load(path: string, sizes: ThoughtSizes): Promise<Thought> {
    checkPath(path);
    await using file = await SafetensorsFile.open(path);
    const { metadata, tensors } = file;
    const bad = (problem: string) => new NoemaError("ERR_BAD_CHECKPOINT", `${path}: ${problem}`, { path });
    if (metadata.format !== FORMAT) throw bad(`no thought: "format" is not "${FORMAT}"`);
    if (metadata.model !== sizes.fingerprint) throw bad("a thought of another model");
    const { latents, width } = sizes;
    const read = async (name: string): Promise<Float32Array> => {
      const entry = tensors.get(name);
      const [rows, columns, ...others] = entry?.shape ?? [];
      if (entry?.dtype !== "F32" || rows !== latents || columns !== width || others.length > 0)
        throw bad(`expected a tensor "${name}" of shape [${latents},${width}] in F32`);
      const values = await file.readFloat32(name);
      if (!values.every(Number.isFinite)) throw bad(`tensor "${name}" holds a NaN or an infinity`);
      return values;
    };
    const count = (name: string) => Math.max(0, Math.floor(Number(metadata[name]) || 0));
    return new Thought({
      ...{ sizes, tokens: count("tokens"), steps: count("steps"), curve: curveOf(metadata.curve) },
      ...{ mean: await read("mean"), logVariance: await read("log_variance"), z: await read("z") },
    });
  }

  /** @internal */
  get parts(): ThoughtParts {
    const { mean, logVariance, z, tokens, steps, curve } = this;
    return { sizes: this.#sizes, mean, logVariance, z, tokens, steps, curve };
  }
}

function checkPath(path: unknown): void {
  if (typeof path !== "string") throw invalid("path", path, "the path of a thought's file");
}

/** What is told beside the tensors is no reason to refuse them. */
function curveOf(text: string | undefined): FitCurve {
  const none: FitCurve = { crossEntropy: [], kl: [] };
  try {
    const { crossEntropy, kl } = JSON.parse(text ?? "") as Partial<FitCurve>;
    const right = [crossEntropy, kl].every((list) => Array.isArray(list) && list.every(Number.isFinite));
    return right ? { crossEntropy: crossEntropy!, kl: kl! } : none;
  } catch {
    return none;
  }
}

/**
 * A thought on the way from one to another: means, log-variances and draws in proportion; the draw keeps the length that one has. Draws
 * that are opposite to each other have no one way around between them: theirs leads straight through zero.
 */
export function between(from: Thought, to: Thought, share: number): Thought {
  checkNumber(share, { min: 0, max: 1 }, "share");
  const [a, b] = [from.parts, to.parts];
  if (a.sizes.fingerprint !== b.sizes.fingerprint)
    throw new NoemaError("ERR_INVALID_ARGUMENT", "between: the thoughts belong to different models");
  const mixed = (x: Float32Array, y: Float32Array) => x.map((value, i) => (1 - share) * value + share * y[i]!);
  return new Thought({
    ...{ sizes: a.sizes, mean: mixed(a.mean, b.mean), logVariance: mixed(a.logVariance, b.logVariance) },
    ...{ z: onSphere(a.z, b.z, share), tokens: 0, steps: 0, curve: { crossEntropy: [], kl: [] } },
  });
}

/** Along the great circle, lengths in proportion: a straight line between two draws goes through vectors that no draw has. */
function onSphere(from: Float32Array, to: Float32Array, share: number): Float32Array {
  let [aa, bb, ab] = [0, 0, 0];
  for (const [i, x] of from.entries()) {
    aa += x * x;
    bb += to[i]! ** 2;
    ab += x * to[i]!;
  }
  const [a, b] = [Math.sqrt(aa), Math.sqrt(bb)];
  const angle = Math.acos(Math.min(1, Math.max(-1, ab / (a * b))));
  if (!(Math.sin(angle) > 1e-6)) return from.map((x, i) => (1 - share) * x + share * to[i]!);
  const length = (1 - share) * a + share * b;
  const [u, v] = [Math.sin((1 - share) * angle) / Math.sin(angle), Math.sin(share * angle) / Math.sin(angle)];
  return from.map((x, i) => length * ((u * x) / a + (v * to[i]!) / b));
}
