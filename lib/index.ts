/** The whole public API. */

export type { Decoding, DecodingOptions } from "./decoding/resolve.js";
export {
  createEngine,
  type DeviceInfo,
  type Engine,
  type EngineOptions,
  type Estimate,
  type LoadOptions,
} from "./engine.js";
export { type ErrorCode, errorMeanings, NoemaError } from "./errors.js";
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
export type { Model, ModelInfo } from "./model.js";
export type { BatchOptions, GenerateOptions, InfillOptions, Prompt, RunOptions } from "./request.js";
export type { Look, LookOptions, Session, SessionOptions } from "./session.js";
