/** `noema verify`: recomputes a golden folder's arrays from its inputs and compares. */

import { join } from "node:path";
import { ofFamily, openCheckpoint } from "../checkpoint/folder.js";
import { NoemaError } from "../errors.js";
import { exists } from "../files.js";
import type { Addon, BackendName, NativeTensor } from "../native/addon.js";
import { loadAddon } from "../native/load.js";
import { openEngine } from "../native/open-engine.js";
import { convOp } from "./conv-op.js";
import { convTraces } from "./conv-traces.js";
import { decodingTraces } from "./decoding-traces.js";
import { flowArrays } from "./flow-arrays.js";
import { Golden } from "./golden.js";
import { mdlmArrays } from "./mdlm-arrays.js";
import { modelArrays } from "./model-arrays.js";
import type { LoadedCase, Outcome, Recipe } from "./recipe.js";
import { rejectionArrays } from "./rejection-arrays.js";
import { thoughtArrays } from "./thought-arrays.js";
import { compare, toleranceOf } from "./tolerance.js";

/** What became of one array. */
export interface ArrayReport {
  name: string;
  status: "checked" | "failed" | "input" | "skipped";
  /** Why it was skipped. */
  reason?: string;
  /** Largest absolute error. */
  maxError?: number;
  /** Error over what is allowed; above 1 fails. */
  ratio?: number;
  tolerance?: string;
}

export interface VerificationReport {
  folder: string;
  backend: string;
  isa: string;
  arrays: ArrayReport[];
  checked: number;
  failed: number;
  skipped: number;
  /** Something was checked, and nothing failed. */
  passed: boolean;
}

export interface VerifyOptions {
  backend?: BackendName;
  threads?: number;
  onArray?: (report: ArrayReport) => void;
  /** @internal */
  addon?: Addon;
}

const recipes: readonly Recipe[] = [
  modelArrays,
  mdlmArrays,
  flowArrays,
  thoughtArrays,
  decodingTraces,
  convTraces,
  convOp,
  rejectionArrays,
];

export async function verify(folder: string, options: VerifyOptions = {}): Promise<VerificationReport> {
  const golden = await Golden.open(folder);
  const { native: engine } = await openEngine(options.addon ? { addon: options.addon } : loadAddon(), {
    backend: options.backend ?? "cpu",
    threads: options.threads ?? 0,
  });
  try {
    const { backend, isa } = engine.stats();
    const loaded = await load(folder, engine);
    try {
      const arrays = await reports(golden, loaded, options.onArray ?? (() => {}));
      return summary({ folder, backend, isa, arrays });
    } finally {
      loaded?.native.dispose();
    }
  } finally {
    engine.dispose();
  }
}

async function load(folder: string, engine: ReturnType<Addon["createEngine"]>): Promise<LoadedCase | undefined> {
  if (!(await exists(join(folder, "config.json")))) return undefined;
  const checkpoint = await openCheckpoint(folder);
  const list = Array.from(checkpoint.tensors, ([name, { shape, dtype, path, offset }]): NativeTensor => {
    return { name, shape: [...shape], dtype: dtype.toLowerCase() as "f32" | "bf16" | "f16", path, offset };
  });
  if (checkpoint.layout.family === "flow") {
    const { config, layout } = ofFamily(checkpoint, "flow");
    return { family: "flow", config, layout, native: await engine.loadFlow(config, list, "f32") };
  }
  if (checkpoint.layout.family === "thought") {
    const { config, layout } = ofFamily(checkpoint, "thought");
    return { family: "thought", config, layout, native: await engine.loadThought(config, list, "f32") };
  }
  const { config, layout } = ofFamily(checkpoint, "masked");
  return { family: "masked", config, layout, native: await engine.loadMasked(config, list, "f32") };
}

async function reports(golden: Golden, loaded: LoadedCase | undefined, onArray: (report: ArrayReport) => void) {
  const done = new Map<string, ArrayReport>();
  const add = (report: ArrayReport): void => {
    done.set(report.name, report);
    onArray(report);
  };
  for (const recipe of recipes) {
    for await (const outcome of recipe(golden, loaded)) {
      if (golden.has(outcome.name)) add(judge(golden, outcome));
    }
  }
  for (const name of golden.arrays.keys()) {
    if (!done.has(name)) add({ name, status: "skipped", reason: "nothing in this version computes it" });
  }
  return [...golden.arrays.keys()].map((name) => done.get(name)!);
}

function judge(golden: Golden, outcome: Outcome): ArrayReport {
  const { name, kind } = outcome;
  if (kind === "input") return { name, status: "input" };
  if (kind === "skipped") return { name, status: "skipped", reason: outcome.reason };
  const expected = golden.get(name);
  const tolerance = toleranceOf(expected, golden.description);
  const { maxError, ratio } = compare(outcome.values, expected.values, tolerance, outcome.skip);
  return { name, status: ratio <= 1 ? "checked" : "failed", maxError, ratio, tolerance: tolerance.text };
}

function summary(report: Pick<VerificationReport, "folder" | "backend" | "isa" | "arrays">): VerificationReport {
  const count = (status: ArrayReport["status"]): number => report.arrays.filter((one) => one.status === status).length;
  const [checked, failed, skipped] = [count("checked"), count("failed"), count("skipped")];
  return { ...report, checked, failed, skipped, passed: failed === 0 && checked > 0 };
}

/** Throws ERR_VERIFICATION_FAILED, or ERR_UNSUPPORTED when there was nothing to compare. */
export function assertPassed(report: VerificationReport): void {
  if (report.passed) return;
  if (report.failed === 0) {
    throw new NoemaError("ERR_UNSUPPORTED", `${report.folder}: nothing in this version computes its arrays`, {
      report,
    });
  }
  const names = report.arrays.filter(({ status }) => status === "failed").map(({ name }) => name);
  const shown = names.slice(0, 5).join(", ") + (names.length > 5 ? ", ..." : "");
  throw new NoemaError(
    "ERR_VERIFICATION_FAILED",
    `${report.failed} of ${report.checked + report.failed} arrays differ: ${shown}`,
    {
      report,
    },
  );
}
