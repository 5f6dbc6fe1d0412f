/**
 * The addon's typed mirror, one to one. Nothing here is public: `lib/model.ts` and its siblings are. Shapes use the letters of
 * `native/README.md`: B sequences, T positions, R rows, K candidates, V vocabulary. A "row" is a flat position b * T + t.
 */

import type { AutoregressiveConfig, FlowConfig, MaskedConfig, ThoughtConfig } from "../checkpoint/config.js";
import type { ErrorCode } from "../errors.js";
import type { NativeThoughtModel } from "./thought.js";

export type * from "./thought.js";

export type Precision = "f32" | "bf16";
export type BackendName = "cpu" | "reference" | "naive" | "cuda" | `cuda:${number}` | "cuda-emulated";

/** A tensor in a file (read by the engine, whose checks repeat the reader's) or in memory. Either is copied. */
export type NativeTensor =
  | { name: string; shape: number[]; dtype: "f32" | "bf16" | "f16"; path: string; offset: number }
  | { name: string; shape: number[]; dtype: "f32"; data: Float32Array };

/** Ends a running call early; the call's promise rejects with ERR_ABORTED. One object may serve several calls. */
export interface NativeCancellation {
  cancel(): void;
}

export interface EngineOptions {
  backend: BackendName;
  /** 0: one per core. */
  threads: number;
}

export interface AddonInfo {
  version: string;
  backends: string[];
  isa: string;
  /** Best first. */
  isaList: string[];
  cores: number;
}

/** Whether a backend can be opened here: a line about its device, or why not. */
export interface ProbeResult {
  usable: boolean;
  description?: string;
  reason?: string;
}

export interface Addon {
  /** Hands over the class that native errors are thrown as. */
  initialise(errorClass: new (code: ErrorCode, message: string, details?: Record<string, unknown>) => Error): void;
  info(): AddonInfo;
  /** Forces an instruction set for the process (null: the best). Throws ERR_UNSUPPORTED / ERR_UNKNOWN_OPTION. */
  forceIsa(name: string | null): void;
  /** Returns at once: the backend is opened on the engine's thread (`ready`). */
  createEngine(options: EngineOptions): NativeEngine;
  /** Opens a backend and waits for it; a broken driver may end the process. Only for a child process (`probe.ts`). */
  probe(backend: string): ProbeResult;
  createCancellation(): NativeCancellation;
  /** rng.h, for the test that compares it with lib/rng.ts. */
  rngUniform(seed: bigint, stream: number, step: number, row: number, lane: number): number;
  statusCodes(): { name: string; code: string; meaning: string }[];
}

export interface EngineStats {
  backend: string;
  isa: string;
  threads: number;
  /** Whether a job runs now, those waiting for it, and those finished so far: a request is one job or many, one after the other. */
  running: boolean;
  waiting: number;
  finished: number;
  /** Bytes of weights held. */
  weightBytes: number;
  /** Bytes of working memory held: as many as the largest job so far took. */
  arenaBytes: number;
}

export interface NativeEngine {
  /** Resolves when the backend is open; rejects with ERR_DEVICE_UNAVAILABLE or ERR_UNKNOWN_OPTION, as all calls then do. */
  ready(): Promise<void>;
  stats(): EngineStats;
  loadMasked(
    config: MaskedConfig,
    tensors: NativeTensor[],
    precision: Precision,
    cancellation?: NativeCancellation,
  ): Promise<NativeMaskedModel>;
  /** The masked family's network under a causal mask. */
  loadAutoregressive(
    config: AutoregressiveConfig,
    tensors: NativeTensor[],
    precision: Precision,
    cancellation?: NativeCancellation,
  ): Promise<NativeAutoregressiveModel>;
  /** `precision` is that of the bodies; heads, couplings and the codebook are f32 always. */
  loadFlow(
    config: FlowConfig,
    tensors: NativeTensor[],
    precision: Precision,
    cancellation?: NativeCancellation,
  ): Promise<NativeFlowModel>;
  /** `precision` is that of all products but those of tokens with latents, which are f32 always. */
  loadThought(
    config: ThoughtConfig,
    tensors: NativeTensor[],
    precision: Precision,
    cancellation?: NativeCancellation,
  ): Promise<NativeThoughtModel>;
  dispose(): void;
}

/** B sequences of T positions each. Keys outside [keyStart[b], keyEnd[b]) are hidden from every query (padding). */
export interface Batch {
  ids: Int32Array;
  batch: number;
  length: number;
  keyStart?: Int32Array;
  keyEnd?: Int32Array;
}

export interface ForwardRequest extends Batch {
  /** Which arrays to copy out; meant for verification and inspection, not for decoding. */
  logits?: boolean;
  hidden?: boolean;
  cancellation?: NativeCancellation;
}
export interface ForwardResult {
  /** [B*T, V] */
  logits?: Float32Array;
  /** [B*T, C] each: the embedding, the residual stream after each block, the final norm. */
  hidden?: Float32Array[];
}

export interface LossRequest extends Batch {
  /** [B*T]; -1: not scored. */
  targets: Int32Array;
  /** Takes one id out of the softmax (SUBS); -1: none. */
  excludedId: number;
  cancellation?: NativeCancellation;
}

export interface SessionOptions {
  batch: number;
  length: number;
  /** [B*T] the canvas: fixed tokens, mask tokens elsewhere. */
  ids: Int32Array;
  keyStart?: Int32Array;
  keyEnd?: Int32Array;
  /** One per sequence. */
  seeds: BigUint64Array;
  /** Classifier-free guidance: logits = u + (scale + 1)(c - u), where u sees mask tokens at the positions marked 1 in `prompt`. */
  guidance?: { scale: number; prompt: Uint8Array };
}

export type DrawKind = "argmax" | "gumbel" | "categorical";

export interface Draw {
  kind: DrawKind;
  temperature: number;
  topK: number;
  topP: number;
}

/** The convolutional normalisation in its ancestral form (op masked_conv_norm, then op draw). */
export interface ConvolutionalDraw {
  kernel: number;
  multiplier: number;
  shape: "tanh" | "linear" | "exponential";
  /** Candidates per row; the released code takes K + 1 and puts MASK in the last one's place: so does this. */
  candidates: number;
  /** Probability mass that may move in this step, t - s, and that of staying masked, s. */
  move: number;
  stay: number;
  temperature: number;
  /** [R, candidates + 1], in [0, 1): given randomness instead of the seeds (verification). */
  uniforms?: Float32Array;
}

export interface StepRequest {
  /** Counts the forward passes of the whole generation; draws are keyed by it. */
  step: number;
  /** What the last step decided: rows and their new ids (mask tokens may be put back). */
  setRows: Int32Array;
  setIds: Int32Array;
  /** Rows to look at: ascending. */
  rows: Int32Array;
  draw: Draw;
  /** The id that may never be drawn (the mask token), or -1. */
  excludedId: number;
  entropy?: boolean;
  margin?: boolean;
  /** K best tokens of each row. */
  top?: number;
  /** s_i = g(multiplier * unmasked neighbours) of each row (confidence form). */
  neighbourhood?: { kernel: number; multiplier: number; shape: "tanh" | "linear" | "exponential" };
  /** Draws by the ancestral convolutional rule instead of `draw`; a row that stays masked gets the mask token. */
  convolution?: ConvolutionalDraw;
  cancellation?: NativeCancellation;
}

export interface StepResult {
  /** [R] */
  tokens: Int32Array;
  /** [R] softmax probability of the token, untempered, over the allowed tokens. */
  confidence: Float32Array;
  entropy?: Float32Array;
  margin?: Float32Array;
  /** [R, K] */
  topIds?: Int32Array;
  topProbabilities?: Float32Array;
  /** [R] */
  neighbourhood?: Float32Array;
}

/** A plan that needs no observation: at step i, rows[i] are drawn and committed. One crossing for all steps. */
export interface PlanRequest {
  firstStep: number;
  setRows: Int32Array;
  setIds: Int32Array;
  /** All steps' rows, one after the other; counts[i] of them belong to step i. */
  rows: Int32Array;
  counts: Int32Array;
  draw: Draw;
  excludedId: number;
  /** Called on the main thread after steps; several finished steps may arrive at once. */
  onSteps?: (steps: number) => void;
  cancellation?: NativeCancellation;
}
export interface PlanResult {
  /** In the order of `rows`. When aborted, what was made so far is on the session (`canvas()`). */
  tokens: Int32Array;
  confidence: Float32Array;
}

export interface NativeSession {
  step(request: StepRequest): Promise<StepResult>;
  run(request: PlanRequest): Promise<PlanResult>;
  /** A copy of the ids as they stand; steps of a running plan appear as they finish. */
  canvas(): Int32Array;
  dispose(): void;
}

export interface AccumulateRequest extends Batch {
  /** [B*T]; -1: not scored. */
  targets: Int32Array;
  /** [B*T] factor on each position's loss. */
  weights: Float32Array;
  excludedId: number;
  cancellation?: NativeCancellation;
}
export interface AccumulateResult {
  /** sum of weight * loss over all rows, in double. */
  lossSum: number;
  /** [B*T] unweighted -log p; 0 where not scored. */
  tokenLoss: Float32Array;
}

/**
 * Rejective fine-tuning: scale times the sum over sequences of -log sigmoid(betaW W - betaL L - gamma) - betaA W, where W and L are the sums of
 * log p of the sequence's winners and losers over their denominators.
 */
export interface PairsRequest extends Batch {
  /** [B*T]; -1: not scored. */
  winners: Int32Array;
  losers: Int32Array;
  /** [B], above 0. */
  winnerDenominators: Float32Array;
  loserDenominators: Float32Array;
  betaW: number;
  betaL: number;
  betaA: number;
  gamma: number;
  scale: number;
  excludedId: number;
  cancellation?: NativeCancellation;
}
export interface PairsResult {
  loss: number;
  /** [B] W and L. */
  winners: Float64Array;
  losers: Float64Array;
}

export interface OptimiserStep {
  rate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  /** Applies to matrices; norms are never decayed. */
  weightDecay: number;
  /** <= 0: no clipping. */
  maxNorm: number;
  /** Multiplies the accumulated gradient first (1 / accumulation). */
  gradientScale: number;
  /** 0: no average is kept. */
  emaDecay: number;
  /** Counts from 1. */
  step: number;
}

export type TrainerBuffer = "parameter" | "gradient" | "m" | "v" | "average";

/** What the trainers of all families do. */
export interface NativeTrainer {
  /** One AdamW step over all parameters, then gradients are zero. A non-finite norm rejects with ERR_NON_FINITE and changes no parameter. */
  step(request: OptimiserStep): Promise<{ gradientNorm: number }>;
  /** Zeroes the gradients. */
  discard(): Promise<void>;
  /** Puts the current parameters (or their average) into the model, so that it generates with them. */
  publish(source: "parameter" | "average"): Promise<void>;
  names(): { name: string; shape: number[] }[];
  /** A copy of one tensor of a buffer. */
  read(buffer: TrainerBuffer, name: string): Promise<Float32Array>;
  write(buffer: TrainerBuffer, name: string, data: Float32Array): Promise<void>;
  dispose(): void;
}

export interface NativeMaskedTrainer extends NativeTrainer {
  /** Adds gradients. Rejects with ERR_NON_FINITE when the loss is not finite (gradients are then as before the call's start or worse: call discard()). */
  accumulate(request: AccumulateRequest): Promise<AccumulateResult>;
  /** Adds gradients of the pairs' loss; rejects as accumulate does. */
  accumulatePairs(request: PairsRequest): Promise<PairsResult>;
  /** Per-row losses with the current parameters, or with their average; no gradients. */
  losses(request: LossRequest & { source: "parameter" | "average" }): Promise<Float32Array>;
}

export interface NativeMaskedModel {
  info(): { parameters: number; weightBytes: number; precision: Precision };
  forward(request: ForwardRequest): Promise<ForwardResult>;
  /** [B*T] -log p of the targets, 0 where not scored; the vocabulary projection runs for scored rows only. */
  losses(request: LossRequest): Promise<Float32Array>;
  session(options: SessionOptions): NativeSession;
  /** Needs f32 tensors. keepAverage: also holds an exponential moving average. */
  trainer(options: { keepAverage: boolean }): Promise<NativeMaskedTrainer>;
  dispose(): void;
}

/** What of a masked model needs no masks. */
export type NativeAutoregressiveModel = Pick<NativeMaskedModel, "info" | "losses" | "trainer" | "dispose">;

/**
 * B sequences of T tokens in patches of P, the first `prefix` of each given. N = (T - prefix) / P positions are modelled, of c = d * P
 * channels. Exactly one of noise and latents.
 */
export interface FlowBatch {
  /** [B*T] */
  ids: Int32Array;
  batch: number;
  length: number;
  prefix?: number;
  /** [B, T - prefix, d] the encoder's standard normal noise (of `invert`: the base noise u). */
  noise?: Float32Array;
  /** [B, T - prefix, d] a state in place of encoded tokens, and its level: 0 is that of the latents z. */
  latents?: State;
  level?: number;
  cancellation?: NativeCancellation;
}

/** A state h^(l): f32 holds no token of more than 10 to 15 nats, f64 does. */
export type State = Float32Array | Float64Array;

/** In nats, positions in text order. */
export interface FlowPass {
  /** [B,N] telescoped. */
  nelbo: Float32Array;
  /** [B, T - prefix] log sum_k N_k(z) */
  logSum: Float32Array;
  /** L times [B,N]: the density of a flow's input given what it saw before. */
  logDensity: Float32Array[];
  /** L times [B,N]; the last is empty unless states were asked for. */
  logDet: Float32Array[];
  /** L + 1 times [B,N,c]: z .. u. */
  states?: Float32Array[];
}

/** A state read as tokens, [positions * P] each: the likeliest, and its probability. */
export interface FlowReading {
  tokens: Int32Array;
  confidence: Float32Array;
}

/** How the readouts do on a batch: L arrays of [B, T - prefix], those of flows without a readout empty. */
export interface FlowReadings {
  /** Nats. */
  losses: Float32Array[];
  /** The likeliest; of `readings` only. */
  tokens: Int32Array[];
}

export interface InverseRequest extends FlowBatch {
  /** The level to end at; default 0, the data. */
  to?: number;
  /** [B,N] 1 where the state at `to` is not sought but taken from `given` [B,N,c]; what follows in the flow's order depends on it. */
  fixed?: Uint8Array;
  given?: State;
  /** One per flow of the model; none: all sequential. */
  plans?: readonly InversePlan[];
  /** `residuals` of flows that are inverted sequentially, too. */
  check?: boolean;
  /** Draw from the flow nearest the noise, a mixture, instead of inverting it. Starts from base noise. */
  ancestral?: AncestralDraw & { seeds: BigUint64Array };
}

/** Of a mixture-rosenblatt flow's weights; of other mixtures temperature 1, all of them. */
export interface AncestralDraw {
  temperature: number;
  /** 0: all. */
  topK: number;
  topP: number;
}

/** How a flow is inverted: position after position, or by sweeps over equal runs of positions until no sequence moves. */
export interface InversePlan {
  method: "sequential" | "jacobi";
  /** Of jacobi: runs of positions, one after the other. Default: 1. */
  modules?: number;
  /** Of jacobi: most sweeps per module, then ERR_NOT_CONVERGED. Default: as many as it has positions, which suffices. */
  sweeps?: number;
  /**
   * Of jacobi: largest change of a sequence at rest, 0 .. 0.01. Default: 0, which gives the bits of the sequential inverse. More rests
   * earlier, and may find another text: `residual` says how far what was found is off, and more than 1e-3 (0.03 with bodies in bf16) is
   * ERR_NOT_CONVERGED.
   */
  tolerance?: number;
  /** Of jacobi: sweeps start with zeros instead of the flow's noise. */
  fromZeros?: boolean;
}
export interface FlowInverse {
  /** [B,N,c] at level `to`. */
  state: Float64Array;
  /** [B, T - prefix]; empty above level 0. */
  tokens: Int32Array;
  /** [B, T - prefix] posterior of that token. */
  confidence: Float32Array;
  /** Per flow of the model [B]: the sweeps it took; of a sequential one, its positions. Empty for flows not inverted. */
  sweeps: Int32Array[];
  /**
   * Per flow of the model [B]: max |u - f(h)| of the h that was found for u, run forward again, but where it was fixed. Of flows that were
   * swept, with `check` of sequential ones, too; empty for the others.
   */
  residuals: Float32Array[];
}

export interface NativeFlowTrainer extends NativeTrainer {
  /**
   * Adds gradients of sum weights * nelbo, the reconstruction weighted; `beginnings` is the share of the stack's beginnings in it. Needs
   * `noise`. Rejects with ERR_NON_FINITE like the masked one.
   */
  accumulate(
    request: FlowBatch & { weights: Float32Array; reconstruction?: number; beginnings?: number },
  ): Promise<FlowPass>;
  encode(request: FlowBatch & { source: "parameter" | "average"; states?: boolean }): Promise<FlowPass>;
  /** Adds the readouts' gradients, of sum over tokens and levels of weights [B, T - prefix] * cross-entropy. */
  accumulateReadouts(request: FlowBatch & { weights: Float32Array }): Promise<FlowReadings>;
  readings(request: FlowBatch & { source: "parameter" | "average" }): Promise<FlowReadings>;
  /** All but the readouts keep their values from now on. */
  trainReadouts(): Promise<void>;
  /** Flows below `stage`, the codebook when it is above 0 (its means if they are fixed), and all readouts keep their values from now on. */
  trainFrom(stage: number, fixedMeans: boolean): Promise<void>;
}

/**
 * Details of ERR_NOT_CONVERGED and ERR_NON_FINITE of a flow model's calls. Positions are those of the text, in patches, the prefix counted,
 * whichever way the flow takes them.
 */
export interface FlowFault {
  /** 0 is nearest the data. Absent: the codebook, before any flow. */
  flow?: number;
  /** Of the call's batch. */
  sequence: number;
  firstPosition: number;
  lastPosition: number;
}

export interface NativeFlowModel {
  info(): { parameters: number; weightBytes: number; precision: Precision };
  /**
   * Towards noise: from the tokens, or from a state. Of flows below that state's level nothing is told. Rejects with ERR_NON_FINITE where a
   * likelihood is no number (details: FlowFault).
   */
  encode(request: FlowBatch & { states?: boolean }): Promise<FlowPass>;
  /**
   * L + 1 times [B,N,c], those below a state's level and above `to` (default: L) empty: what `encode` calls states, by the steps of `invert`, which undoes it to
   * the bit (with one mixture in the stack; unlikely tokens below others may differ in the last). Takes as long as `invert`.
   */
  trace(request: FlowBatch & { to?: number }): Promise<Float64Array[]>;
  /**
   * Towards data: from base noise, or from a state. Rejects with ERR_NOT_CONVERGED where a search or sweeps do not come to their tolerance
   * or what sweeps found leads elsewhere, with ERR_NON_FINITE where a state is too large for f32 or too far from every token for the
   * codebook to tell which it is (details of both: FlowFault). Of `ids` only the prefixes are read.
   */
  invert(request: InverseRequest): Promise<FlowInverse>;
  /**
   * Reads a state [positions,c] of a level: 0 by the codebook, others by their readouts (ERR_UNSUPPORTED where there is none). Rejects with
   * ERR_NON_FINITE where it is no token's (details: FlowFault, the flow that made the state, positions of the state alone).
   */
  read(request: { level: number; latents: State; cancellation?: NativeCancellation }): Promise<FlowReading>;
  /** Needs f32 tensors. keepAverage: also holds an exponential moving average. */
  trainer(options: { keepAverage: boolean }): Promise<NativeFlowTrainer>;
  dispose(): void;
}
