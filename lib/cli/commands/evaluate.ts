/** `noema evaluate`: how well a model knows text files. */

import { stat } from "node:fs/promises";
import type { Command } from "commander";
import { createEngine } from "../../engine.js";
import { evaluate } from "../../evaluate.js";
import type { Evaluation } from "../../evaluation/evaluate.js";
import { ioError } from "../../files.js";
import { addBoundFlags, atMost, type BoundFlags, boundOptions, loadOptions, manner, numberOf } from "../bound-flags.js";
import { example, type Streams } from "../command.js";
import { deviceOption } from "../device-flag.js";
import { interruptible } from "../interrupt.js";
import { startProgress } from "../progress.js";

interface EvaluateFlags extends BoundFlags {
  limit?: string;
  documents?: boolean;
  prefix?: string;
  sameNoise?: boolean;
}

export function registerEvaluate(program: Command, streams: Streams): void {
  const command = program
    .command("evaluate")
    .description(
      "nats per token of a corpus, or a bound on them: perplexity, bits per character and byte, standard error",
    )
    .argument("<model>", "a checkpoint folder")
    .argument("<files...>", "text files, or JSON lines (.jsonl) with a document as the text of each")
    .option("--limit <number>", "stop after this many windows")
    .option("--documents", "cut every document by itself instead of one row of all documents")
    .option(
      "--prefix <tokens>",
      "give so many first tokens of every window, and score the rest; shorter windows are left out",
    )
    .option(
      "--same-noise",
      "thought models: also the published figure, of fits scored by the draw that they were fitted to: no bound, whatever its value",
    );
  addBoundFlags(command)
    .addHelpText("after", example("noema evaluate models/tales-masked stories.txt --limit 200"))
    .action((folder: string, files: string[], flags: EvaluateFlags) =>
      interruptible("interrupted", (signal) => evaluateFiles(folder, files, { flags, signal, streams })),
    );
}

interface Context {
  flags: EvaluateFlags;
  signal: AbortSignal;
  streams: Streams;
}

async function evaluateFiles(
  folder: string,
  files: readonly string[],
  { flags, signal, streams }: Context,
): Promise<void> {
  const limit = flags.limit === undefined ? undefined : numberOf(flags.limit, "limit");
  await using engine = await createEngine(deviceOption(flags));
  await using model = await engine.load(folder, loadOptions(flags));
  const total = limit ?? (await totalBytes(files));
  const format = `{bar} {percentage}% {bound} nats per token`;
  const progress = startProgress(streams, { format, total, quiet: flags.json });
  try {
    const result = await evaluate(model, files, {
      ...boundOptions(flags),
      ...(limit !== undefined && { limit }),
      ...(flags.documents && { packing: "documents" as const }),
      ...(flags.prefix !== undefined && { prefix: numberOf(flags.prefix, "prefix") }),
      ...(flags.sameNoise && { sameNoise: true }),
      signal,
      onProgress: ({ sequences, bytes, bound }) =>
        progress.update(limit ? sequences : bytes, { bound: bound.toFixed(4) }),
    });
    progress.stop();
    streams.out.write(flags.json ? `${JSON.stringify(named(result))}\n` : describe(result));
  } finally {
    progress.stop();
  }
}

async function totalBytes(files: readonly string[]): Promise<number> {
  let total = 0;
  for (const path of files) {
    try {
      total += (await stat(path)).size;
    } catch (error) {
      throw ioError("reading", path, error);
    }
  }
  return total;
}

/** The figure that is no bound keeps one name wherever it is written. */
function named({ sameNoiseNelbo, ...result }: Evaluation): object {
  return sameNoiseNelbo === undefined ? result : { ...result, same_noise_nelbo: sameNoiseNelbo };
}

function describe(result: Evaluation): string {
  const { bound, standardError, perplexity, bitsPerCharacter, bitsPerByte, tokens, sequences, prefix, isAltered } =
    result;
  const most = atMost(result.kind);
  const after = prefix === undefined ? "" : ` after ${prefix} of every window`;
  return [
    `nats per token      ${most}${bound.toFixed(4)} ± ${standardError.toFixed(4)} (over ${sequences} sequences)`,
    ...ofLatents(result),
    `perplexity          ${most}${perplexity.toFixed(2)}`,
    `bits per character  ${most}${bitsPerCharacter.toFixed(4)}`,
    `bits per byte       ${most}${bitsPerByte.toFixed(4)}`,
    ...(isAltered ? [`${" ".repeat(20)}of the text as the tokenizer gives it back, not as the files hold it`] : []),
    `scored              ${tokens} tokens${after}, ${manner(result)}`,
    "",
  ].join("\n");
}

/** Of models with latents: the tighter bound; of thought models, what the first one is the sum of. */
function ofLatents({ importanceWeighted, thought, sameNoiseNelbo, draws, kind, prefix }: Evaluation): string[] {
  const lines: string[] = [];
  if (thought) {
    const { crossEntropy, kl, steps } = thought;
    const terms = `cross-entropy ${crossEntropy.toFixed(4)} + KL ${kl.toFixed(4)}`;
    const what = prefix === undefined ? terms : "thoughts fitted to the given tokens alone";
    lines.push(`${" ".repeat(20)}${what}, ${Number(steps.toFixed(1))} steps of the fast loop`);
  }
  if (importanceWeighted !== undefined)
    lines.push(`IWAE-${draws}`.padEnd(20) + atMost(kind) + importanceWeighted.toFixed(4));
  if (sameNoiseNelbo !== undefined)
    lines.push(`same_noise_nelbo    ${sameNoiseNelbo.toFixed(4)}, no bound: scored by the noise that it was fitted to`);
  return lines;
}
