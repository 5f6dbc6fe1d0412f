/** A thought model whose native calls are written down: every fit and every draft has a number, and bounds are chosen by the test. */

import type { ThoughtConfig } from "../../../lib/checkpoint/config.js";
import type {
  BoundRequest,
  ContinueRequest,
  ContinueResult,
  FitRequest,
  FitResult,
  NativeThoughtModel,
  ThoughtBatch,
} from "../../../lib/native/addon.js";
import { ThoughtModel } from "../../../lib/thought/model.js";
import { LogitsCancellation } from "../../../lib/verification/logits-session.js";

export const fakeConfig: ThoughtConfig = {
  layout: "noema-thought",
  ...{ vocabSize: 100, hiddenSize: 2, numLayers: 2, numHeads: 1, intermediateSize: 4, maxPositions: 64 },
  ...{ attentionWindow: 8, numLatents: 2, ropeTheta: 10000, rmsNormEps: 1e-5, tiedEmbeddings: true },
  ...{ bosTokenId: 0, eosTokenId: 1 },
  inference: {
    ...{ steps: 4, learningRate: [0.3, 0.34], schedule: "linear" },
    ...{ logVarianceInit: -5, noise: "resample", constantLogVariance: false },
  },
};
/** Values of a thought. */
export const SIZE = fakeConfig.numLatents * fakeConfig.hiddenSize;

type NativeFitRequest = Parameters<NativeThoughtModel["fit"]>[0];

export interface FakeThoughtOptions {
  /** Nats of a whole text. Default: 1. */
  nats?: (text: readonly number[]) => number;
  /** New tokens of the draft with this number, when so many are wanted. Default: that many times the number. */
  write?: (draft: number, wanted: number) => readonly number[];
  /** Instead of a fit that goes well. */
  onFit?: (request: NativeFitRequest, well: FitResult) => Promise<FitResult>;
  onContinue?: (request: ContinueRequest, well: ContinueResult) => Promise<ContinueResult>;
}

/** What was asked of the native model, call by call. */
export interface FakeThoughtLog {
  fits: FitRequest[];
  bounds: BoundRequest[];
  continues: ContinueRequest[];
}

/** Fits are numbered from 100, and their draws, means and log-variances say the number; drafts are numbered from 10. */
export function fakeThought(options: FakeThoughtOptions = {}): { model: ThoughtModel; log: FakeThoughtLog } {
  const { nats = () => 1, write = (draft, wanted) => Array<number>(wanted).fill(draft), onFit, onContinue } = options;
  const log: FakeThoughtLog = { fits: [], bounds: [], continues: [] };
  let [fits, drafts] = [100, 10];
  const native = {
    info: () => ({ parameters: 1, weightBytes: 4, precision: "f32" }),
    fit: async (request: NativeFitRequest) => {
      log.fits.push(request);
      const well = fitted(request, fits);
      fits += request.batch;
      return onFit ? onFit(request, well) : well;
    },
    bound: async (request: BoundRequest) => {
      log.bounds.push(request);
      return { nelbo: Float64Array.from(textsOf(request), nats) };
    },
    continue: async (request: ContinueRequest) => {
      log.continues.push(request);
      const tokens = Array.from({ length: request.batch }, () => Int32Array.from(write(drafts++, request.tokens)));
      const well = { tokens, confidence: [] };
      return onContinue ? onContinue(request, well) : well;
    },
    dispose: () => {},
  } as unknown as NativeThoughtModel;
  const addon = { createCancellation: () => new LogitsCancellation() };
  const owner = { addon, admit: () => () => {}, release: () => {} };
  const parts = { native, config: fakeConfig, tokenizer: undefined, folder: "", owner, fingerprint: "fake" };
  return { model: new ThoughtModel(parts as unknown as ConstructorParameters<typeof ThoughtModel>[0]), log };
}

function fitted({ batch, fit }: FitRequest, first: number): FitResult {
  const numbers = (scale: number) =>
    Float32Array.from({ length: batch * SIZE }, (_, i) => scale * (first + Math.floor(i / SIZE)));
  const history = (rows: number) => Array.from({ length: rows }, () => new Float32Array(batch).fill(1));
  return {
    ...{ mean: numbers(-1), logVariance: numbers(0.001), z: numbers(1), steps: new Int32Array(batch).fill(fit.steps) },
    ...{ crossEntropy: history(fit.steps + 1), kl: history(fit.steps + 1) },
  };
}

/** The scored texts of a batch. */
export function textsOf({ targets, batch, length }: ThoughtBatch): number[][] {
  return Array.from({ length: batch }, (_, b) =>
    Array.from(targets!.subarray(b * length, (b + 1) * length)).filter((id) => id >= 0),
  );
}

/** What texts are continued from. */
export function startsOf({ ids, batch, length, lengths }: ContinueRequest): number[][] {
  return Array.from({ length: batch }, (_, b) => Array.from(ids.subarray(b * length, b * length + lengths![b]!)));
}

/** The first of each sequence's values. */
export function numbersOf(values: Float32Array): number[] {
  return Array.from({ length: values.length / SIZE }, (_, b) => values[b * SIZE]!);
}
