/**
 * A native engine in TypeScript for tests: a model whose logits at a position are the products of its left neighbour's
 * embedding with all embeddings (embed.weight, tied). Deterministic f32 AdamW over every tensor. Small, slow and exact enough
 * to see losses fall and to compare runs bit for bit.
 */

import type { MaskedConfig } from "../../../lib/checkpoint/config.js";
import { NoemaError } from "../../../lib/errors.js";
import type {
  AccumulateRequest,
  AccumulateResult,
  LossRequest,
  NativeEngine,
  NativeMaskedModel,
  NativeMaskedTrainer,
  NativeSession,
  NativeTensor,
  OptimiserStep,
  TrainerBuffer,
} from "../../../lib/native/addon.js";

type Buffers = Record<TrainerBuffer, Map<string, Float32Array>>;

export class FakeEngine
  implements Pick<NativeEngine, "loadMasked" | "loadFlow" | "loadAutoregressive" | "loadThought">
{
  readonly trainers: FakeTrainer[] = [];
  /** Makes the loss of this optimiser step NaN. */
  poisonedStep = -1;
  onLosses: (steps: number) => void = () => undefined;
  live = 0;

  async loadMasked(config: MaskedConfig, tensors: NativeTensor[]): Promise<NativeMaskedModel> {
    this.live++;
    return new FakeModel(this, config, tensors);
  }
  loadFlow(): never {
    throw new NoemaError("ERR_UNSUPPORTED", "loadFlow");
  }
  loadAutoregressive(): never {
    throw new NoemaError("ERR_UNSUPPORTED", "loadAutoregressive");
  }
  loadThought(): never {
    throw new NoemaError("ERR_UNSUPPORTED", "loadThought");
  }
}

class FakeModel implements NativeMaskedModel {
  constructor(
    readonly engine: FakeEngine,
    readonly config: MaskedConfig,
    readonly tensors: NativeTensor[],
  ) {}

  info() {
    const parameters = this.tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
    return { parameters, weightBytes: parameters * 4, precision: "f32" as const };
  }
  forward(): never {
    throw new NoemaError("ERR_UNSUPPORTED", "forward");
  }
  session(): NativeSession {
    throw new NoemaError("ERR_UNSUPPORTED", "session");
  }
  async losses(request: LossRequest): Promise<Float32Array> {
    return (await this.trainer()).losses({ ...request, source: "parameter" });
  }
  async trainer(): Promise<FakeTrainer> {
    const trainer = new FakeTrainer(this);
    this.engine.trainers.push(trainer);
    return trainer;
  }
  dispose(): void {
    this.engine.live--;
  }
}

export class FakeTrainer implements NativeMaskedTrainer {
  readonly buffers: Buffers = {
    parameter: new Map(),
    gradient: new Map(),
    m: new Map(),
    v: new Map(),
    average: new Map(),
  };
  steps = 0;
  published: string[] = [];
  disposed = false;
  /** Reading a tensor fails as writing it to a full disk would. */
  full = false;
  readonly #width: number;
  readonly #vocabulary: number;

  constructor(readonly model: FakeModel) {
    this.#width = model.config.hiddenSize;
    this.#vocabulary = model.config.vocabSize;
    for (const tensor of model.tensors) {
      if (!("data" in tensor)) throw new NoemaError("ERR_UNSUPPORTED", "the fake engine reads no files");
      for (const buffer of Object.values(this.buffers)) buffer.set(tensor.name, new Float32Array(tensor.data.length));
      this.buffers.parameter.get(tensor.name)?.set(tensor.data);
      this.buffers.average.get(tensor.name)?.set(tensor.data);
    }
  }

  async accumulate(request: AccumulateRequest): Promise<AccumulateResult> {
    const tokenLoss = new Float32Array(request.ids.length);
    let lossSum = 0;
    this.#rows(request, "parameter", (row, left, target, probabilities) => {
      tokenLoss[row] = -Math.log(probabilities[target]!);
      lossSum += request.weights[row]! * tokenLoss[row]!;
      this.#backward(left, target, probabilities, request.weights[row]!);
    });
    if (this.steps + 1 === this.model.engine.poisonedStep) {
      throw new NoemaError("ERR_NON_FINITE", "accumulate: the loss of row 3 is nan");
    }
    return { lossSum, tokenLoss };
  }

  accumulatePairs(): never {
    throw new NoemaError("ERR_UNSUPPORTED", "accumulatePairs");
  }

  async losses(request: LossRequest & { source: "parameter" | "average" }): Promise<Float32Array> {
    const out = new Float32Array(request.ids.length);
    this.model.engine.onLosses(this.steps);
    this.#rows(request, request.source, (row, _left, target, probabilities) => {
      out[row] = -Math.log(probabilities[target]!);
    });
    return out;
  }

  #rows(
    { ids, targets, length, excludedId }: LossRequest,
    source: "parameter" | "average",
    visit: (row: number, left: number, target: number, probabilities: Float64Array) => void,
  ): void {
    for (let row = 0; row < ids.length; row++) {
      const target = targets[row]!;
      if (target < 0) continue;
      const left = row % length === 0 ? excludedId : ids[row - 1]!;
      visit(row, left, target, this.#softmax(this.buffers[source].get("embed.weight")!, left, excludedId));
    }
  }

  #softmax(embed: Float32Array, left: number, excluded: number): Float64Array {
    const out = new Float64Array(this.#vocabulary);
    let sum = 0;
    for (let id = 0; id < this.#vocabulary; id++) {
      let logit = 0;
      for (let c = 0; c < this.#width; c++) logit += embed[left * this.#width + c]! * embed[id * this.#width + c]!;
      out[id] = id === excluded ? 0 : Math.exp(logit);
      sum += out[id]!;
    }
    return out.map((value) => value / sum);
  }

  #backward(left: number, target: number, probabilities: Float64Array, weight: number): void {
    const embed = this.buffers.parameter.get("embed.weight")!;
    const gradient = this.buffers.gradient.get("embed.weight")!;
    for (let id = 0; id < this.#vocabulary; id++) {
      const slope = weight * (probabilities[id]! - Number(id === target));
      for (let c = 0; c < this.#width; c++) {
        gradient[left * this.#width + c]! += slope * embed[id * this.#width + c]!;
        gradient[id * this.#width + c]! += slope * embed[left * this.#width + c]!;
      }
    }
  }

  async step(options: OptimiserStep): Promise<{ gradientNorm: number }> {
    let square = 0;
    for (const gradient of this.buffers.gradient.values()) for (const g of gradient) square += g * g;
    const gradientNorm = Math.sqrt(square) * options.gradientScale;
    const clip = options.maxNorm > 0 ? Math.min(1, options.maxNorm / gradientNorm) : 1;
    for (const name of this.buffers.parameter.keys()) this.#update(name, options, clip * options.gradientScale);
    await this.discard();
    this.steps = options.step;
    return { gradientNorm };
  }

  #update(
    name: string,
    { beta1, beta2, rate, epsilon, weightDecay, emaDecay, step }: OptimiserStep,
    scale: number,
  ): void {
    const [p, g, m, v, a] = (["parameter", "gradient", "m", "v", "average"] as const).map(
      (b) => this.buffers[b].get(name)!,
    );
    for (let i = 0; i < p!.length; i++) {
      const slope = g![i]! * scale;
      m![i] = beta1 * m![i]! + (1 - beta1) * slope;
      v![i] = beta2 * v![i]! + (1 - beta2) * slope * slope;
      const move = m![i]! / (1 - beta1 ** step) / (Math.sqrt(v![i]! / (1 - beta2 ** step)) + epsilon);
      p![i]! -= rate * (move + weightDecay * p![i]!);
      a![i] = emaDecay * a![i]! + (1 - emaDecay) * p![i]!;
    }
  }

  async discard(): Promise<void> {
    for (const gradient of this.buffers.gradient.values()) gradient.fill(0);
  }
  async publish(source: "parameter" | "average"): Promise<void> {
    this.published.push(source);
  }
  names() {
    return this.model.tensors.map(({ name, shape }) => ({ name, shape }));
  }
  async read(buffer: TrainerBuffer, name: string): Promise<Float32Array> {
    if (this.full) throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    return this.buffers[buffer].get(name)!.slice();
  }
  async write(buffer: TrainerBuffer, name: string, data: Float32Array): Promise<void> {
    this.buffers[buffer].get(name)!.set(data);
  }
  dispose(): void {
    this.disposed = true;
  }
}

export const tinyConfig: MaskedConfig = {
  layout: "llada",
  vocabSize: 12,
  hiddenSize: 8,
  numLayers: 2,
  numHeads: 2,
  numKvHeads: 2,
  intermediateSize: 32,
  maxPositions: 16,
  ropeTheta: 10000,
  rmsNormEps: 1e-5,
  maskTokenId: 1,
  eosTokenId: 0,
  padTokenId: 2,
  tiedEmbeddings: true,
};
