/** An addon without native code: the toy network behind the whole contract that generation uses. */

import { join } from "node:path";
import type { MaskedConfig } from "../../lib/checkpoint/config.js";
import { writeCheckpoint } from "../../lib/checkpoint/folder.js";
import { layoutNamed } from "../../lib/checkpoint/registry.js";
import { type Engine, engineOn } from "../../lib/engine.js";
import { NoemaError } from "../../lib/errors.js";
import type { MaskedModel } from "../../lib/masked-model.js";
import type { Addon, NativeEngine, NativeMaskedModel, SessionOptions } from "../../lib/native/addon.js";
import { LogitsCancellation, LogitsSession } from "../../lib/verification/logits-session.js";
import { sharedFolder } from "../lib/temporary.js";
import { root } from "./files.js";

export interface FakeOptions {
  /** Runs before every forward pass. */
  onForward?: (pass: number) => void | Promise<void>;
  /** From this position on, end-of-text is the likeliest token. */
  eosFrom?: number;
  /** Why the backend cannot be opened. */
  unavailable?: string;
  /** Makes every position's likeliest token this one. */
  always?: number;
}

/** What happened to the native objects. */
export interface FakeLog {
  forwards: number;
  sessions: number;
  openSessions: number;
  modelsFreed: number;
  enginesFreed: number;
}

export const tokenizerPath = join(root, "models", "tales-masked", "tokenizer.json");

export const fakeConfig: MaskedConfig = {
  layout: "llada",
  vocabSize: 4096,
  hiddenSize: 4,
  numLayers: 1,
  numHeads: 1,
  numKvHeads: 1,
  intermediateSize: 4,
  maxPositions: 64,
  ropeTheta: 10000,
  rmsNormEps: 1e-5,
  maskTokenId: 1,
  eosTokenId: 0,
  padTokenId: 2,
  tiedEmbeddings: true,
};

let folder: Promise<string> | undefined;

/** A checkpoint of zeros with the tales tokenizer. */
export function fakeFolder(): Promise<string> {
  folder ??= writeFake();
  return folder;
}

/** A fresh one, for tests that change it. */
export async function writeFake({ tokenizer = true } = {}): Promise<string> {
  const target = join(sharedFolder(), "model");
  const specs = layoutNamed("llada").tensors(fakeConfig);
  const size = (shape: number[]): number => shape.reduce((product, n) => product * n, 1);
  const tensors = new Map(specs.map(({ canonical, shape }) => [canonical, new Float32Array(size(shape))]));
  await writeCheckpoint(target, { config: fakeConfig, tensors, ...(tokenizer && { tokenizer: tokenizerPath }) });
  return target;
}

function logitsOf({ eosFrom = Number.POSITIVE_INFINITY, always }: FakeOptions) {
  return (ids: Int32Array): Float64Array[] => {
    let context = 0;
    ids.forEach((id, at) => {
      if (id !== fakeConfig.maskTokenId) context += Math.sin(id * 1.7 + at * 0.31);
    });
    return Array.from(ids, (_, at) => {
      const row = Float64Array.from({ length: fakeConfig.vocabSize }, (_, v) => 6 * Math.sin(v * 2.1 + at + context));
      row[0] = at >= eosFrom ? 99 : -99;
      row[2] = -99;
      if (always !== undefined) row[always] = 99;
      return row;
    });
  };
}

export function fakeAddon(options: FakeOptions = {}): { addon: Addon; log: FakeLog } {
  const log: FakeLog = { forwards: 0, sessions: 0, openSessions: 0, modelsFreed: 0, enginesFreed: 0 };
  const addon: Addon = {
    initialise: () => {},
    info: () => ({ version: "0", backends: ["cpu"], isa: "toy", isaList: ["toy"], cores: 1 }),
    forceIsa: (name) => {
      if (name !== null && name !== "toy") throw new NoemaError("ERR_UNSUPPORTED", `no "${name}" here`);
    },
    probe: () => ({ usable: true, description: "a toy" }),
    createEngine: (engine) => fakeEngine(options, log, engine.backend),
    createCancellation: () => new LogitsCancellation(),
    rngUniform: () => 0.5,
    statusCodes: () => [],
  };
  return { addon, log };
}

function fakeEngine(options: FakeOptions, log: FakeLog, backend: string): NativeEngine {
  return {
    stats: () => ({
      backend,
      isa: "toy",
      threads: 1,
      running: false,
      waiting: 0,
      finished: log.forwards,
      weightBytes: 0,
      arenaBytes: 0,
    }),
    ready: async () => {
      if (options.unavailable) throw new NoemaError("ERR_DEVICE_UNAVAILABLE", options.unavailable);
    },
    loadMasked: async () => fakeModel(options, log),
    loadFlow: notMasked,
    loadAutoregressive: notMasked,
    loadThought: notMasked,
    dispose: () => {
      log.enginesFreed++;
    },
  };
}

async function notMasked(): Promise<never> {
  throw new NoemaError("ERR_UNSUPPORTED", "the toy network is a masked one");
}

class FakeSession extends LogitsSession {
  #open = true;
  constructor(
    session: SessionOptions,
    options: FakeOptions,
    readonly log: FakeLog,
  ) {
    const pause = async (): Promise<void> => {
      await new Promise((resolve) => setImmediate(resolve));
      await options.onForward?.(log.forwards++);
    };
    super({ ...session, logits: logitsOf(options), maskId: fakeConfig.maskTokenId, pause });
    log.sessions++;
    log.openSessions++;
  }

  override dispose(): void {
    if (this.#open) this.log.openSessions--;
    this.#open = false;
    super.dispose();
  }
}

function fakeModel(options: FakeOptions, log: FakeLog): NativeMaskedModel {
  const unsupported = (): never => {
    throw new NoemaError("ERR_UNSUPPORTED", "not in the toy network");
  };
  return {
    info: () => ({ parameters: 1, weightBytes: 4, precision: "f32" }),
    forward: unsupported,
    losses: unsupported,
    trainer: unsupported,
    session: (session) => new FakeSession(session, options, log),
    dispose: () => {
      log.modelsFreed++;
    },
  };
}

/** An engine and a model on a toy network. */
export async function fakeModelOn(
  options: FakeOptions = {},
): Promise<{ engine: Engine; model: MaskedModel; log: FakeLog }> {
  const { addon, log } = fakeAddon(options);
  const engine = await engineOn({ addon }, { backend: "cpu", threads: 1, queueLimit: 8 });
  return { engine, model: await engine.load(await fakeFolder(), { family: "masked" }), log };
}

/** What a promise rejects with. */
export function rejection<E>(promise: PromiseLike<unknown>): Promise<E> {
  return Promise.resolve(promise).then(
    () => {
      throw new Error("expected a rejection");
    },
    (error: unknown) => error as E,
  );
}
