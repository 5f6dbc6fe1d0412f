/** The whole public API. */

export type { AutoregressiveModel, AutoregressiveModelInfo } from "./autoregressive-model.js";
export type {
  AutoregressiveConfig,
  Family,
  FlowConfig,
  FlowKind,
  FlowStage,
  Inference,
  MaskedConfig,
  ThoughtConfig,
} from "./checkpoint/config.js";
export type { Decoding, DecodingOptions } from "./decoding/resolve.js";
export {
  type AnyModel,
  createEngine,
  type DeviceInfo,
  type DeviceOption,
  type Engine,
  type EngineOptions,
  type Estimate,
  type LoadOptions,
} from "./engine.js";
export { type ErrorCode, errorMeanings, NoemaError } from "./errors.js";
export { evaluate } from "./evaluate.js";
export type { BoundForm, BoundOptions, EstimateForm, EstimateKind } from "./evaluation/bound.js";
export type { EvaluateOptions, Evaluation, EvaluationProgress } from "./evaluation/evaluate.js";
export type { Score, ScoreOptions } from "./evaluation/score.js";
export type { LatentChange, TokenChange, TokenDifference } from "./flow/changes.js";
export type { FlowDecodeOptions, FlowEncodeOptions, FlowState, FlowText } from "./flow/codec.js";
export type { DraftMeasure, DraftOptions } from "./flow/drafts.js";
export type { Edit, EditOptions } from "./flow/edit.js";
export type { Inspection, InspectOptions, Level, Reading } from "./flow/inspect.js";
export type { PlanMeasure } from "./flow/measure.js";
export type { FlowModel, FlowModelInfo, InversionMeasureOptions } from "./flow/model.js";
export type { Inversion } from "./flow/plan.js";
export type { FlowBatchOptions, FlowGenerateOptions } from "./flow/request.js";
export type { StateStatistics } from "./flow/states.js";
export type {
  CommitEvent,
  FinishEvent,
  FinishReason,
  Generation,
  GenerationEvent,
  GenerationResult,
  RefineEvent,
  Timing,
  Usage,
} from "./generation.js";
export type { MaskedModel, MaskedModelInfo } from "./masked-model.js";
export type { Model } from "./model.js";
export type { BackendName, EngineStats, InversePlan, Precision } from "./native/addon.js";
export type { FitOptions } from "./posterior/fit.js";
export type { FitProgress } from "./posterior/infer.js";
export type { FitCurve, Thought } from "./posterior/thought.js";
export type { BatchOptions, GenerateOptions, InfillOptions, Prompt, RunOptions } from "./request.js";
export type { Seed } from "./rng.js";
export type { Look, LookOptions, Session, SessionOptions } from "./session.js";
export type { LayerReading, ThoughtInspection } from "./thought/inspect.js";
export type { InferOptions, ThoughtModel, ThoughtModelInfo } from "./thought/model.js";
export type { ThoughtBatchOptions, ThoughtGenerateOptions } from "./thought/request.js";
export type { DecodeOptions, DecodeStream, EncodeOptions, Tokenizer } from "./tokenizer/tokenizer.js";
export { train } from "./train.js";
export type { FlowShape } from "./training/flow/shape.js";
export type { TimeSampling } from "./training/masked/corruption.js";
export type {
  FlowMonitors,
  HeldOutMetric,
  ReadoutMonitors,
  SampleMetric,
  ThoughtMonitors,
  TrainingMetric,
} from "./training/metrics.js";
export type { ModelShape, TrainOptions, TrainSettings, WeightedFile } from "./training/options.js";
export type { ScheduleShape } from "./training/schedule.js";
export type { ThoughtPreset, ThoughtShape } from "./training/thought/shape.js";
export type { Training, TrainingEvent } from "./training/train.js";
export { type ArrayReport, type VerificationReport, type VerifyOptions, verify } from "./verify.js";
