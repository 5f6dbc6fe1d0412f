/** `noema bench`: how fast a model writes here; with --ops, the native op benchmark. */

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { createEngine } from "../../engine.js";
import { NoemaError } from "../../errors.js";
import type { MaskedModel } from "../../masked-model.js";
import { packageRoot } from "../../package.js";
import { type BoundFlags, loadOptions, numberOf } from "../bound-flags.js";
import { example, type Streams } from "../command.js";
import { addDecodingFlags, type DecodingFlags, decodingOptions } from "../decoding-flags.js";
import { addDeviceFlag, type DeviceFlag, describeDevice, deviceOption } from "../device-flag.js";
import { interruptible } from "../interrupt.js";

interface BenchFlags extends DecodingFlags, Pick<BoundFlags, "precision" | "json">, DeviceFlag {
  maxTokens?: string;
  runs?: string;
  threads?: string;
  ops?: boolean;
}

interface Figure {
  decoding: string;
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
    .option("--max-tokens <n>", "new tokens per run (default: 128, or what the model's positions leave)")
    .option("--runs <n>", "runs, of which the median counts; one more warms up (default: 5)")
    .option("--threads <n>", "0: one per core (default: 0)")
    .option("--precision <name>", "f32 or bf16: how weights are held")
    .option("--ops", "run the native benchmark (npm run bench builds it)")
    .option("--json", "print JSON");
  addDeviceFlag(addDecodingFlags(command))
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
  await using model = await engine.load(folder, { ...loadOptions(flags), family: "masked" });
  const figure = await measure(model, flags, signal);
  const { precision } = model.info;
  const report = { model: folder, ...engine.device, precision, ...figure };
  const text = flags.json ? JSON.stringify(report) : render(`${describeDevice(engine.device)}, ${precision}`, figure);
  streams.out.write(`${text}\n`);
}

async function measure(model: MaskedModel, flags: BenchFlags, signal: AbortSignal): Promise<Figure> {
  const runs = flags.runs === undefined ? 5 : numberOf(flags.runs, "runs");
  if (!Number.isInteger(runs) || runs < 1) {
    throw new NoemaError("ERR_INVALID_ARGUMENT", `--runs: expected an integer from 1, got ${runs}`);
  }
  const decoding = { ...decodingOptions(flags), stopAtEos: false };
  const maxTokens = flags.maxTokens === undefined ? {} : { maxTokens: numberOf(flags.maxTokens, "max-tokens") };
  const milliseconds: number[] = [];
  let [tokens, passes] = [0, 0];
  for (let run = 0; run <= runs; run++) {
    const { usage, timing } = await model.generate({ decoding, signal, seed: run, ...maxTokens });
    if (run > 0) milliseconds.push(timing.total);
    tokens = usage.completionTokens;
    passes = usage.forwards;
  }
  milliseconds.sort((a, b) => a - b);
  const median = milliseconds[Math.floor(runs / 2)]!;
  const rates = { tokensPerSecond: (1000 * tokens) / median, millisecondsPerPass: median / Math.max(1, passes) };
  return { decoding: decoding.rule!, tokens, passes, milliseconds, ...rates };
}

function render(where: string, figure: Figure): string {
  const { decoding, tokens, passes, milliseconds, tokensPerSecond, millisecondsPerPass } = figure;
  const spread = `${milliseconds[0]!.toFixed(1)} .. ${milliseconds.at(-1)!.toFixed(1)} ms`;
  return [
    `backend ${where}, decoding ${decoding}`,
    `${tokens} tokens in ${passes} passes: ${tokensPerSecond.toFixed(1)} tokens/s, ${millisecondsPerPass.toFixed(2)} ms per pass`,
    `median of ${milliseconds.length} runs; ${spread}`,
  ].join("\n");
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
