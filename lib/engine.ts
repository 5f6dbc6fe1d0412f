/** Where models are loaded and run: a device, its threads, a queue. */

import { existsSync } from "node:fs";
import { openCheckpoint } from "./checkpoint/folder.js";
import type { LocatedTensor } from "./checkpoint/shards.js";
import { checkNames, checkNumber, invalid } from "./decoding/options.js";
import { NoemaError, unknownOption } from "./errors.js";
import { Handle } from "./handle.js";
import { Model } from "./model.js";
import type { Addon, BackendName, EngineStats, NativeEngine, NativeTensor, Precision } from "./native/addon.js";
import { loadAddon } from "./native/load.js";
import { openEngine } from "./native/open-engine.js";
import { Tokenizer } from "./tokenizer/tokenizer.js";

export interface EngineOptions {
  /** Default: "auto", the best device that is usable. */
  device?: "auto" | "cpu" | "cuda" | { cuda: number };
  /** Default: 0, one per core. Results do not depend on it. */
  threads?: number;
  /** "cpu" (default), or "reference": plain loops in double precision, to judge the former. NOEMA_BACKEND sets the default. */
  backend?: BackendName;
  /** Generations that may run or wait; one more is answered with ERR_QUEUE_FULL at once. Default: 256. */
  queueLimit?: number;
}

export interface LoadOptions {
  /** How weights are held. Default: "f32". "bf16" takes half the memory and is faster where the processor has it. */
  precision?: Precision;
}

export interface DeviceInfo {
  kind: "cpu";
  backend: string;
  /** Instruction set in use. */
  isa: string;
  threads: number;
  /** Why a GPU that is present is not used. */
  fallbackReason?: string;
}

export interface Estimate {
  parameters: number;
  /** Bytes of weights once loaded. */
  weightBytes: number;
  /** Bytes of tensors in the files. */
  fileBytes: number;
}

const engineOptions = ["device", "threads", "backend", "queueLimit"];
const backends: readonly BackendName[] = ["cpu", "reference", "naive"];
const precisions: readonly Precision[] = ["f32", "bf16"];

export class Engine extends Handle {
  readonly #addon: Addon;
  readonly #native: NativeEngine;
  readonly #fallbackReason: string | undefined;
  readonly #queueLimit: number;
  #admitted = 0;

  /** @internal Use `createEngine`. */
  constructor(addon: Addon, native: NativeEngine, { queueLimit, fallbackReason }: EngineParts) {
    super("engine");
    this.#addon = addon;
    this.#native = native;
    this.#queueLimit = queueLimit;
    this.#fallbackReason = fallbackReason;
  }

  /** What the engine runs on. */
  get device(): DeviceInfo {
    const { backend, isa, threads } = this.stats();
    const reason = this.#fallbackReason;
    return { kind: "cpu", backend, isa, threads, ...(reason ? { fallbackReason: reason } : {}) };
  }

  /** Work waiting and done, and memory held. */
  stats(): EngineStats {
    this.check();
    return this.#native.stats();
  }

  /** Loads a checkpoint folder. */
  async load(folder: string, options: LoadOptions = {}): Promise<Model> {
    this.check();
    const precision = precisionOf(folder, options);
    const { config, tensors, tokenizer: path } = await openCheckpoint(folder);
    const tokenizer = path === undefined ? undefined : await Tokenizer.load(path);
    tokenizer?.checkFits(config.vocabSize);
    this.check();
    const native = await this.#native.loadMasked(config, Array.from(tensors, nativeTensor), precision);
    const owner = {
      addon: this.#addon,
      admit: () => this.#admit(),
      release: (model: Model) => this.release(model),
    };
    const model = new Model({ native, config, tokenizer, folder, owner });
    if (this.disposed) {
      model.dispose();
      this.check();
    }
    return this.adopt(model);
  }

  /** What loading a folder would take; reads headers only. */
  async estimate(folder: string, options: LoadOptions = {}): Promise<Estimate> {
    const precision = precisionOf(folder, options);
    const { tensors } = await openCheckpoint(folder);
    let parameters = 0;
    let fileBytes = 0;
    for (const { shape, bytes } of tensors.values()) {
      parameters += shape.reduce((product, size) => product * size, 1);
      fileBytes += bytes;
    }
    return { parameters, weightBytes: parameters * (precision === "bf16" ? 2 : 4), fileBytes };
  }

  /** @internal For training. */
  get native(): NativeEngine {
    this.check();
    return this.#native;
  }

  /** Takes a place; the answer gives it back. What has begun is never refused half-way. */
  #admit(): () => void {
    if (this.#admitted >= this.#queueLimit) {
      const message = `${this.#admitted} generations run or wait, as many as this engine accepts`;
      throw new NoemaError("ERR_QUEUE_FULL", message, { queueLimit: this.#queueLimit });
    }
    this.#admitted++;
    return () => {
      this.#admitted--;
    };
  }

  protected override free(): void {
    this.#native.dispose();
  }
}

interface EngineParts {
  queueLimit: number;
  fallbackReason?: string | undefined;
}

/** Native calls besides those of generations that may wait: scoring, sessions, loading, training. */
const otherCalls = 256;

/** `openCheckpoint` lets no other element types through than these three. */
function nativeTensor([name, { shape, dtype, path, offset }]: [string, LocatedTensor]): NativeTensor {
  return { name, shape: [...shape], dtype: dtype.toLowerCase() as "f32" | "bf16" | "f16", path, offset };
}

function precisionOf(folder: string, options: LoadOptions): Precision {
  if (typeof folder !== "string") throw invalid("folder", folder, "the path of a checkpoint folder");
  checkNames(options, ["precision"], "load");
  const { precision = "f32" } = options;
  if (!precisions.includes(precision)) throw unknownOption(String(precision), precisions, "precision");
  return precision;
}

/** Opens the native addon and makes an engine. NOEMA_BACKEND and NOEMA_ISA set defaults. */
export async function createEngine(options: EngineOptions = {}): Promise<Engine> {
  const { backend, fallbackReason, threads, queueLimit } = checkEngine(options);
  const { addon } = loadAddon();
  return engineOn(addon, { backend, threads, queueLimit }, fallbackReason);
}

/** @internal An engine on an addon that is open already. */
export function engineOn(addon: Addon, options: Parameters<Addon["createEngine"]>[0], fallbackReason?: string): Engine {
  const { queueLimit } = options;
  const native = openEngine(addon, { ...options, queueLimit: queueLimit + otherCalls });
  return new Engine(addon, native, { queueLimit, fallbackReason });
}

/** @internal */
export function checkEngine(options: EngineOptions) {
  checkNames(options, engineOptions, "engine");
  const { device = "auto", threads = 0, queueLimit = 256 } = options;
  const backend = (options.backend ?? process.env["NOEMA_BACKEND"]) || "cpu";
  if (!backends.includes(backend as BackendName)) throw unknownOption(String(backend), backends, "backend");
  return {
    backend: backend as BackendName,
    threads: checkNumber(threads, { min: 0, max: 1024, integer: true }, "threads"),
    queueLimit: checkNumber(queueLimit, { min: 1, max: 1 << 20, integer: true }, "queueLimit"),
    ...checkDevice(device),
  };
}

const noCuda = "this version of noema has no CUDA module; it runs on the processor";

function checkDevice(device: unknown): { fallbackReason?: string } {
  if (device === "cpu") return {};
  if (device === "auto")
    return existsSync("/dev/nvidiactl") ? { fallbackReason: `a GPU is present, but ${noCuda}` } : {};
  if (device === "cuda" || (typeof device === "object" && device !== null && "cuda" in device)) {
    throw new NoemaError("ERR_DEVICE_UNAVAILABLE", `device "cuda": ${noCuda}: use "auto" or "cpu"`, { device });
  }
  if (typeof device === "string") throw unknownOption(device, ["auto", "cpu", "cuda"], "device");
  throw invalid("device", device, '"auto", "cpu", "cuda" or { cuda: index }');
}
