/** Where models are loaded and run: a device, its threads, a queue. */

import { AutoregressiveModel } from "./autoregressive-model.js";
import { cancellable } from "./cancellation.js";
import { type Family, families } from "./checkpoint/config.js";
import { type Checkpoint, ofFamily, openCheckpoint } from "./checkpoint/folder.js";
import type { LocatedTensor } from "./checkpoint/shards.js";
import { checkNames, checkNumber, checkSignal, checkWord, invalid } from "./decoding/options.js";
import { automaticBackend, backendFor, type DeviceOption } from "./device.js";
import { NoemaError } from "./errors.js";
import { FlowModel } from "./flow/model.js";
import { Handle } from "./handle.js";
import { MaskedModel } from "./masked-model.js";
import type {
  Addon,
  BackendName,
  EngineStats,
  NativeCancellation,
  NativeEngine,
  NativeTensor,
  Precision,
} from "./native/addon.js";
import { moduleOf } from "./native/device-module.js";
import { loadAddon } from "./native/load.js";
import { type OpenAddon, openEngine } from "./native/open-engine.js";
import { fingerprintOf, withLatents } from "./thought/fingerprint.js";
import { ThoughtModel } from "./thought/model.js";
import { Tokenizer } from "./tokenizer/tokenizer.js";

export type { DeviceOption } from "./device.js";

export interface EngineOptions {
  /** "cuda" is the first GPU, { cuda: 1 } the second. Default: "auto", the best device that is usable. */
  device?: DeviceOption;
  /** Default: 0, one per core. Results do not depend on it. */
  threads?: number;
  /**
   * Which of a device's backends: for the processor "cpu" or "reference" (plain loops in double precision, to judge the others),
   * for a GPU "cuda". Default: NOEMA_BACKEND where it suits the device, else the device's first.
   */
  backend?: BackendName;
  /**
   * Requests to models and sessions that may run or wait; one more is answered with ERR_QUEUE_FULL at once, and what has begun is never
   * refused half-way. Loading, training and evaluating take no place. Default: 256.
   */
  queueLimit?: number;
}

export interface LoadOptions {
  /** How weights are held. Default: "f32". "bf16" takes half the memory and is faster where the processor has it. */
  precision?: Precision;
  /** Refuses a model of another family. */
  family?: Family;
  /**
   * Thought models: N, fewer latents than the checkpoint's, a multiple of the layers: every layer reads its first. Thoughts belong to the
   * model with the N that they were fitted with.
   */
  latents?: number;
  signal?: AbortSignal;
}

interface ModelsByFamily {
  masked: MaskedModel;
  flow: FlowModel;
  autoregressive: AutoregressiveModel;
  thought: ThoughtModel;
}
/** A model of some family: `family` says which. */
export type AnyModel = ModelsByFamily[Family];

export interface DeviceInfo {
  kind: "cpu" | "cuda";
  backend: string;
  /** Instruction set in use; "portable" where there is no choice. */
  isa: string;
  /** Of the processor; 0 on a GPU. */
  threads: number;
  /** Of a GPU: its name, compute capability, memory, driver. */
  description?: string;
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
const precisions: readonly Precision[] = ["f32", "bf16"];

export class Engine extends Handle {
  readonly #addon: Addon;
  readonly #native: NativeEngine;
  readonly #about: Pick<DeviceInfo, "description" | "fallbackReason">;
  readonly #queueLimit: number;
  #admitted = 0;

  /** @internal Use `createEngine`. */
  constructor(addon: Addon, native: NativeEngine, { queueLimit, about }: EngineParts) {
    super("engine");
    this.#addon = addon;
    this.#native = native;
    this.#queueLimit = queueLimit;
    this.#about = about;
  }

  /** What the engine runs on. */
  get device(): DeviceInfo {
    const { backend, isa, threads } = this.stats();
    return { kind: moduleOf(backend) ? "cuda" : "cpu", backend, isa, threads, ...this.#about };
  }

  /** Work waiting and done, and memory held. */
  stats(): EngineStats {
    this.check();
    return this.#native.stats();
  }

  /** Loads a checkpoint folder. With `family`, a model of another family is refused, and the type is known. */
  async load<F extends Family>(folder: string, options: LoadOptions & { family: F }): Promise<ModelsByFamily[F]>;
  async load(folder: string, options?: LoadOptions): Promise<AnyModel>;
  async load(folder: string, options: LoadOptions = {}): Promise<AnyModel> {
    this.check();
    const precision = precisionOf(folder, options);
    const { signal } = options;
    signal?.throwIfAborted();
    const found = await openCheckpoint(folder);
    if (options.family !== undefined) ofFamily(found, options.family);
    const checkpoint = options.latents === undefined ? found : withLatents(found, options.latents);
    const { config, tokenizer: path } = checkpoint;
    const tokenizer = path === undefined ? undefined : await Tokenizer.load(path);
    tokenizer?.checkFits(config.vocabSize);
    this.check();
    const model = await cancellable(this.#addon, signal, (cancellation) =>
      this.#open(checkpoint, { precision, tokenizer, cancellation }),
    );
    if (this.disposed) {
      model.dispose();
      this.check();
    }
    return this.adopt(model);
  }

  async #open(checkpoint: Checkpoint, { precision, tokenizer, cancellation }: Opening): Promise<AnyModel> {
    const tensors = Array.from(checkpoint.tensors, nativeTensor);
    const owner = {
      addon: this.#addon,
      admit: () => this.#admit(),
      release: (model: Handle) => this.release(model),
    };
    const parts = { tokenizer, folder: checkpoint.folder, owner };
    if (checkpoint.layout.family === "flow") {
      const { config } = ofFamily(checkpoint, "flow");
      return new FlowModel({
        ...parts,
        config,
        native: await this.#native.loadFlow(config, tensors, precision, cancellation),
      });
    }
    if (checkpoint.layout.family === "autoregressive") {
      const { config } = ofFamily(checkpoint, "autoregressive");
      const native = await this.#native.loadAutoregressive(config, tensors, precision, cancellation);
      return new AutoregressiveModel({ ...parts, config, native });
    }
    if (checkpoint.layout.family === "thought") {
      const own = ofFamily(checkpoint, "thought");
      const { config } = own;
      const fingerprint = await fingerprintOf(own);
      const native = await this.#native.loadThought(config, tensors, precision, cancellation);
      return new ThoughtModel({ ...parts, config, native, fingerprint });
    }
    const { config } = ofFamily(checkpoint, "masked");
    return new MaskedModel({
      ...parts,
      config,
      native: await this.#native.loadMasked(config, tensors, precision, cancellation),
    });
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

  /** Takes a place; the answer gives it back. */
  #admit(): () => void {
    if (this.#admitted >= this.#queueLimit) {
      const message = `${this.#admitted} requests run or wait, as many as this engine accepts`;
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

interface Opening {
  precision: Precision;
  tokenizer: Tokenizer | undefined;
  cancellation: NativeCancellation;
}

interface EngineParts {
  queueLimit: number;
  about: Pick<DeviceInfo, "description" | "fallbackReason">;
}

/** `openCheckpoint` lets no other element types through than these three. */
function nativeTensor([name, { shape, dtype, path, offset }]: [string, LocatedTensor]): NativeTensor {
  return { name, shape: [...shape], dtype: dtype.toLowerCase() as "f32" | "bf16" | "f16", path, offset };
}

function precisionOf(folder: string, options: LoadOptions): Precision {
  if (typeof folder !== "string") throw invalid("folder", folder, "the path of a checkpoint folder");
  checkNames(options, ["precision", "family", "latents", "signal"], "load");
  checkSignal(options.signal);
  const { precision = "f32", family } = options;
  if (family !== undefined) checkWord(family, families, "family");
  return checkWord(precision, precisions, "precision");
}

/**
 * Opens the native addon and a device. NOEMA_BACKEND and NOEMA_ISA set defaults. A GPU is tried in a child process first; rejects
 * with ERR_DEVICE_UNAVAILABLE and the reason when it was asked for and cannot be used.
 */
export async function createEngine(options: EngineOptions = {}): Promise<Engine> {
  const { backend: wanted, threads, queueLimit } = checkEngine(options);
  const { addon, path } = loadAddon();
  const { backend, ...fallback } = wanted === "auto" ? await automaticBackend(path) : { backend: wanted };
  return engineOn({ addon, path }, { backend, threads, queueLimit }, fallback);
}

/** @internal An engine on an addon that is open already. */
export async function engineOn(
  open: OpenAddon,
  { queueLimit, ...options }: Parameters<Addon["createEngine"]>[0] & { queueLimit: number },
  fallback: Pick<DeviceInfo, "fallbackReason"> = {},
): Promise<Engine> {
  const { native, ...description } = await openEngine(open, options);
  return new Engine(open.addon, native, { queueLimit, about: { ...description, ...fallback } });
}

/** @internal */
export function checkEngine(options: EngineOptions): {
  backend: BackendName | "auto";
  threads: number;
  queueLimit: number;
} {
  checkNames(options, engineOptions, "engine");
  const { device, backend, threads = 0, queueLimit = 256 } = options;
  return {
    backend: backendFor(device, backend),
    threads: checkNumber(threads, { min: 0, max: 1024, integer: true }, "threads"),
    queueLimit: checkNumber(queueLimit, { min: 1, max: 1 << 20, integer: true }, "queueLimit"),
  };
}
