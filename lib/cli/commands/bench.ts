/** `noema bench`: how fast a model writes here; with --ops, the native op benchmark. */

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { type AnyModel, createEngine } from "../../engine.js";
import { NoemaError } from "../../errors.js";
import type { PlanMeasure } from "../../flow/measure.js";
import type { FlowModel } from "../../flow/model.js";
import { describePlan } from "../../flow/plan.js";
import { packageRoot } from "../../package.js";
import { seedAt } from "../../request.js";
import { type BoundFlags, loadOptions, numberOf, seedOf } from "../bound-flags.js";
import { columnsOf } from "../columns.js";
import { example, type Streams } from "../command.js";
import { decodingOptions } from "../decoding-flags.js";
import { addDeviceFlag, type DeviceFlag, describeDevice, deviceOption } from "../device-flag.js";
import {
  addGenerationFlags,
  flowDrawing,
  type GenerationFlags,
  givenThought,
  startGeneration,
} from "../generation-flags.js";
import { interruptible } from "../interrupt.js";

interface BenchFlags extends GenerationFlags, Pick<BoundFlags, "precision" | "json">, DeviceFlag {
  runs?: string;
  prompt?: string;
  documentStart?: boolean;
  threads?: string;
  ops?: boolean;
  inversions?: boolean;
  exits?: boolean;
}

/** Of the median run; runs differ in tokens where an end of text ends them. */
interface Figure {
  way: string;
  tokens: number;
  passes: number;
  /** Of all runs, sorted. */
  milliseconds: number[];
  tokensPerSecond: number;
  millisecondsPerPass: number;
}

export function bench(program: Command, streams: Streams): void {
  const command = program
    .command("bench")
    .description("measure generation on this machine; with --ops, the native kernels instead")
    .argument("[model]", "a checkpoint folder")
    .option(
      "--runs <n>",
      "runs, of which the median counts; one more warms up (default: 5); with --exits: texts (default: 8)",
    )
    .option("--prompt <text>", "what the texts go on from (default: nothing)")
    .option("--document-start", "put an end-of-text token, which separates texts in training, before the prompt")
    .option("--threads <n>", "0: one per core (default: 0)")
    .option("--precision <name>", "f32 or bf16: how weights are held")
    .option("--inversions", "flows: every way of inverting every flow, for texts of --max-tokens")
    .option(
      "--exits",
      "flows: what reading a text from every state costs, and how often it agrees with the text, for the draw that the other options tell",
    )
    .option("--ops", "run the native benchmark (npm run bench builds it)")
    .option("--json", "print JSON");
  addDeviceFlag(addGenerationFlags(command))
    .addHelpText("after", example("noema bench models/tales-masked --steps 32 --runs 3"))
    .action((folder: string | undefined, flags: BenchFlags) => {
      if (flags.ops) return runNative(streams);
      return interruptible("interrupted", (signal) => benchModel(folder, flags, { signal, streams }));
    });
}

interface Context {
  signal: AbortSignal;
  streams: Streams;
}

async function benchModel(folder: string | undefined, flags: BenchFlags, { signal, streams }: Context): Promise<void> {
  if (folder === undefined) {
    throw new NoemaError("ERR_INVALID_ARGUMENT", "bench: expected a checkpoint folder, or --ops");
  }
  const threads = flags.threads === undefined ? 0 : numberOf(flags.threads, "threads");
  await using engine = await createEngine({ threads, ...deviceOption(flags) });
  await using model = await engine.load(folder, loadOptions(flags));
  if (flags.inversions) return await inversions(flowOnly(model), flags, { signal, streams });
  if (flags.exits) return await exits(flowOnly(model), flags, { signal, streams });
  const figure = await measure(model, flags, signal);
  const { precision } = model.info;
  const report = { model: folder, ...engine.device, precision, ...figure };
  const text = flags.json ? JSON.stringify(report) : render(`${describeDevice(engine.device)}, ${precision}`, figure);
  streams.out.write(`${text}\n`);
}

async function measure(model: AnyModel, flags: BenchFlags, signal: AbortSignal): Promise<Figure> {
  const count = flags.runs === undefined ? 5 : numberOf(flags.runs, "runs");
  if (!Number.isInteger(count) || count < 1) {
    throw new NoemaError("ERR_INVALID_ARGUMENT", `--runs: expected an integer from 1, got ${count}`);
  }
  const thought = await givenThought(model, flags);
  const { prompt = "", documentStart } = flags;
  const given = { prompt, documentStart, refine: false, wholeLength: true, thought, signal };
  const runs: { tokens: number; passes: number; milliseconds: number }[] = [];
  const first = flags.seed === undefined ? 0 : seedOf(flags.seed);
  for (let run = 0; run <= count; run++) {
    const { usage, timing } = await startGeneration(model, flags, { ...given, seed: seedAt(first, run) });
    if (run > 0) runs.push({ tokens: usage.completionTokens, passes: usage.forwards, milliseconds: timing.total });
  }
  runs.sort((a, b) => a.milliseconds / a.tokens - b.milliseconds / b.tokens);
  const { tokens, passes, milliseconds: median } = runs[Math.floor(count / 2)]!;
  const rates = { tokensPerSecond: (1000 * tokens) / median, millisecondsPerPass: median / Math.max(1, passes) };
  const milliseconds = runs.map((run) => run.milliseconds).sort((a, b) => a - b);
  return { way: wayOf(model, flags), tokens, passes, milliseconds, ...rates };
}

/** How the family writes. */
function wayOf({ family }: AnyModel, flags: BenchFlags): string {
  if (family === "masked") return `decoding ${decodingOptions(flags).rule}`;
  return family === "flow" ? `inversion ${flags.inversion ?? "sequential"}` : "left to right";
}

function render(where: string, figure: Figure): string {
  const { way, tokens, passes, milliseconds, tokensPerSecond, millisecondsPerPass } = figure;
  const spread = `${milliseconds[0]!.toFixed(1)} .. ${milliseconds.at(-1)!.toFixed(1)} ms`;
  return [
    `backend ${where}, ${way}`,
    `${tokens} tokens in ${passes} passes: ${tokensPerSecond.toFixed(1)} tokens/s, ${millisecondsPerPass.toFixed(2)} ms per pass`,
    `median of ${milliseconds.length} runs; ${spread}`,
  ].join("\n");
}

function flowOnly(model: AnyModel): FlowModel {
  if (model.family === "flow") return model;
  throw new NoemaError(
    "ERR_UNSUPPORTED",
    `--inversions and --exits are for flow models; this is a ${model.family} one`,
  );
}

/** As many positions as --max-tokens takes; the model's, without. */
function positionsOf(model: FlowModel, { maxTokens }: BenchFlags): { positions?: number } {
  if (maxTokens === undefined) return {};
  return { positions: Math.ceil(numberOf(maxTokens, "max-tokens") / model.info.patchSize) };
}

/** Row by row, for plain sweeps over a long text take their time. */
async function inversions(model: FlowModel, flags: BenchFlags, { signal, streams: { out } }: Context): Promise<void> {
  const write = (...[flow, way, ms, sweeps]: string[]) =>
    out.write(`${flow!.padEnd(4)}  ${way!.padEnd(30)}  ${ms!.padStart(10)}  ${sweeps!.padStart(7)}\n`);
  const row = ({ flow, plan, milliseconds, sweeps }: PlanMeasure) => {
    write(String(flow + 1), describePlan(plan), milliseconds.toFixed(2), sweeps.toFixed(1));
  };
  if (!flags.json) write("flow", "way", "ms", "sweeps");
  const onMeasure = flags.json ? {} : { onMeasure: row };
  const measures = await model.measureInversions({ ...positionsOf(model, flags), ...onMeasure, signal });
  if (flags.json) out.write(`${JSON.stringify(measures)}\n`);
}

async function exits(model: FlowModel, flags: BenchFlags, { signal, streams: { out } }: Context): Promise<void> {
  const count = flags.runs === undefined ? {} : { count: numberOf(flags.runs, "runs") };
  const { prompt, documentStart, seed } = flags;
  const asked = {
    ...(prompt !== undefined && { prompt }),
    ...(documentStart && { documentStart }),
    ...(seed !== undefined && { seed: seedOf(seed) }),
  };
  const drawn = { ...positionsOf(model, flags), ...asked, ...flowDrawing(flags) };
  const measures = await model.measureDrafts({ ...count, ...drawn, signal });
  const rows = measures.map(({ level, agreement, milliseconds }) => {
    const agrees = agreement === undefined ? "" : `${(100 * agreement).toFixed(1)} %`;
    return [String(level), agrees, milliseconds.toFixed(2)];
  });
  out.write(flags.json ? `${JSON.stringify(measures)}\n` : columnsOf([["state", "agrees", "ms from noise"], ...rows]));
}

async function runNative({ out, error }: Streams): Promise<void> {
  const path = join(packageRoot, "build", "Release", process.platform === "win32" ? "noema-bench.exe" : "noema-bench");
  if (!existsSync(path)) {
    throw new NoemaError(
      "ERR_UNSUPPORTED",
      "the native benchmark has not been built; npm run bench builds and runs it",
    );
  }
  const code = await new Promise<number>((resolve, reject) => {
    const child = spawn(path, { stdio: ["ignore", "pipe", "pipe"] });
    child.stdout.pipe(out, { end: false });
    child.stderr.pipe(error, { end: false });
    child.once("error", reject);
    child.once("close", (status) => resolve(status ?? 1));
  });
  if (code !== 0) throw new NoemaError("ERR_INTERNAL", `the native benchmark ended with code ${code}`);
}
