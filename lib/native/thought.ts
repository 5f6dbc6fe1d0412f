/** The addon's mirror goes on: the thought family. */

import type { ForwardResult, NativeCancellation, NativeTrainer, Precision } from "./addon.js";

/** B sequences of T positions of a latent thought model: x_0 .. x_{T-1}. Latents are [B,N,C]. */
export interface ThoughtBatch {
  /** [B*T] */
  ids: Int32Array;
  batch: number;
  length: number;
  /** [B*T] what follows each position; -1: not scored. None: nothing is. */
  targets?: Int32Array;
  cancellation?: NativeCancellation;
}

/** Which arrays to copy out; meant for verification and inspection. */
export interface ThoughtForwardRequest extends Omit<ThoughtBatch, "targets"> {
  /** [B,N,C] */
  z: Float32Array;
  logits?: boolean;
  hidden?: boolean;
  likeliest?: boolean;
  attention?: boolean;
}
export interface ThoughtForwardResult extends ForwardResult {
  /** [B*T] the token that each position expects next. */
  likeliest?: Int32Array;
  /** L times [B,T,H,M]: what each head of each position weighs the layer's latents by; the M weights sum to 1. */
  attention?: Float32Array[];
}

/** Settings of the fast loop. */
export interface NativeFit {
  steps: number;
  /** What the schedule goes between. */
  firstRate: number;
  lastRate: number;
  schedule: "linear" | "cosine" | "constant";
  /** A draw for every step and one for the z handed on, or one for all. */
  noise: "resample" | "shared";
  logVarianceInit: number;
  constantLogVariance?: boolean;
  /** Of the KL divergence in what the loop goes down by. Default: 1. */
  klWeight?: number;
  /**
   * Above 0, a sequence comes to rest once the mean objective of its last 4 steps differs from that of the 4 steps before by at most this
   * many nats per scored target. Default: 0, all steps are taken.
   */
  tolerance?: number;
  /** Also score the z handed on (one more forward pass). */
  score?: boolean;
  /** Calls of the same sizes follow: a device may record the loop. */
  repeated?: boolean;
}

/** Where a fit starts; what is not given is drawn from the seeds. */
export interface FitStart {
  /** One per sequence. */
  seeds?: BigUint64Array;
  /** [B,N,C] */
  mean?: Float32Array;
  logVariance?: Float32Array;
  /** [steps + 1,B,N,C] of "resample", [1,B,N,C] of "shared". */
  draws?: Float32Array;
}

export interface FitRequest extends ThoughtBatch, FitStart {
  fit: NativeFit;
  /** Also tell what the loop went through (verification). */
  trace?: boolean;
}

/** Of a sequence without a scored target: the prior, and a draw from it. */
export interface FitResult {
  /** [B,N,C] */
  mean: Float32Array;
  logVariance: Float32Array;
  z: Float32Array;
  /** [B] taken. */
  steps: Int32Array;
  /** Nats over scored targets, [B] each: of every step taken, then of the z handed on (cross-entropy: with `score`). */
  crossEntropy: Float32Array[];
  kl: Float32Array[];
  trace?: {
    /** Of every step. */
    rates: Float64Array;
    /** steps + 1 times [B,N,C]: before each step, and the result. */
    mean: Float32Array[];
    logVariance: Float32Array[];
    /** [B,N,C] of the first step's objective. */
    meanGradient: Float32Array;
    logVarianceGradient: Float32Array;
  };
}

export interface BoundRequest extends ThoughtBatch {
  /** [B,N,C] a posterior. */
  mean: Float32Array;
  logVariance: Float32Array;
  /** K. */
  count: number;
  /** One per sequence; or `draws` [K,B,N,C]. */
  seeds?: BigUint64Array;
  draws?: Float32Array;
}
export interface BoundResult {
  /** [K,B] nats, summed over scored targets. */
  crossEntropy: Float32Array;
  /** [K,B] log p(x,z) - log q(z). */
  logWeight: Float32Array;
  /** [B] */
  kl: Float32Array;
  /** [B] nats: mean cross-entropy + kl; -mean log weight; -log mean weight. */
  nelbo: Float64Array;
  nelboSampled: Float64Array;
  iwae: Float64Array;
}

export interface ContinueRequest extends Omit<ThoughtBatch, "targets"> {
  /** [B] tokens of each prompt, its first ones. Default: all `length`. */
  lengths?: Int32Array;
  /** [B,N,C] */
  z: Float32Array;
  /** Most new tokens of a sequence. */
  tokens: number;
  /** One per sequence. */
  seeds: BigUint64Array;
  /** 0: the likeliest. */
  temperature: number;
  /** 0: all. */
  topK: number;
  topP: number;
  /** A sequence ends with this token. */
  endId?: number;
  logits?: boolean;
  /** [steps,B] tokens that came since the last call, -1 of sequences that had ended. */
  onTokens?: (tokens: Int32Array) => void;
}
/** When aborted, what there is so far is the error's `partial`. */
export interface ContinueResult {
  /** Of each sequence. */
  tokens: Int32Array[];
  /** Untempered probability of each token. */
  confidence: Float32Array[];
  /** [tokens, V] of each sequence. */
  logits?: Float32Array[];
}

export type ThoughtAccumulateRequest = ThoughtBatch & {
  targets: Int32Array;
  /** [B*T] factor on each position's loss. */
  weights: Float32Array;
} & (
    | { z: Float32Array }
    /** `trajectory`: every step's weight gradients are added too, of its summed cross-entropy. */
    | (FitStart & { fit: NativeFit; trajectory?: boolean })
  );

export interface NativeThoughtTrainer extends NativeTrainer {
  /**
   * Adds gradients of sum weights * loss at z, which is given or fitted first. Rejects with ERR_NON_FINITE when a loss or the fit's
   * objective is not finite: then call discard().
   */
  accumulate(request: ThoughtAccumulateRequest): Promise<{ tokenLoss: Float32Array; posterior?: FitResult }>;
  losses(
    request: ThoughtBatch & { targets: Int32Array; z: Float32Array; source: "parameter" | "average" },
  ): Promise<Float32Array>;
  fit(request: FitRequest & { source: "parameter" | "average" }): Promise<FitResult>;
  bound(request: BoundRequest & { source: "parameter" | "average" }): Promise<BoundResult>;
}

export interface NativeThoughtModel {
  info(): { parameters: number; weightBytes: number; precision: Precision };
  forward(request: ThoughtForwardRequest): Promise<ThoughtForwardResult>;
  /** [B*T] -log p of the targets, 0 where not scored. */
  losses(request: ThoughtBatch & { targets: Int32Array; z: Float32Array }): Promise<Float32Array>;
  /**
   * The fast loop. A sequence's result is the same in any batch. Rejects with ERR_NON_FINITE, naming the step; the last posterior whose
   * objective was finite is then the error's `partial`, as is, when aborted, what there is so far.
   */
  fit(
    request: FitRequest & {
      /** Called after every so many steps (default: 1) with their number and the last one's objective [B]; some may be left out. */
      progressEvery?: number;
      onProgress?: (steps: number, objective: Float32Array) => void;
    },
  ): Promise<FitResult>;
  /** Fresh draws from a posterior: valid bounds on -log p, unlike what its fit descended. */
  bound(request: BoundRequest): Promise<BoundResult>;
  /** Token after token with cached keys, z held fixed. */
  continue(request: ContinueRequest): Promise<ContinueResult>;
  /** Needs f32 tensors. keepAverage: also holds an exponential moving average. */
  trainer(options: { keepAverage: boolean }): Promise<NativeThoughtTrainer>;
  dispose(): void;
}
