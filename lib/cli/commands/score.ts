/** `noema score`: how likely texts are to a model. */

import type { Command } from "commander";
import { createEngine } from "../../engine.js";
import type { Score } from "../../evaluation/score.js";
import { addBoundFlags, atMost, type BoundFlags, boundOptions, loadOptions, manner } from "../bound-flags.js";
import { example, type Streams } from "../command.js";
import { deviceOption } from "../device-flag.js";
import { interruptible } from "../interrupt.js";

interface ScoreFlags extends BoundFlags {
  context?: string;
}

export function registerScore(program: Command, streams: Streams): void {
  const command = program
    .command("score")
    .description("a text's negative log-likelihood in nats, or a bound on it with the standard error of the estimate")
    .argument("<model>", "a checkpoint folder")
    .argument("<texts...>", "one score for each")
    .option("--context <text>", "text in front that is given, not scored");
  addBoundFlags(command)
    .addHelpText("after", example('noema score models/tales-masked "Once upon a time, there was a little girl."'))
    .action((folder: string, texts: string[], flags: ScoreFlags) =>
      interruptible("interrupted", (signal) => scoreTexts(folder, texts, { flags, signal, streams })),
    );
}

interface Context {
  flags: ScoreFlags;
  signal: AbortSignal;
  streams: Streams;
}

async function scoreTexts(
  folder: string,
  texts: readonly string[],
  { flags, signal, streams }: Context,
): Promise<void> {
  const options = { ...boundOptions(flags), signal, ...(flags.context !== undefined && { context: flags.context }) };
  await using engine = await createEngine(deviceOption(flags));
  await using model = await engine.load(folder, loadOptions(flags));
  for (const text of texts) {
    const result = await model.score(text, options);
    streams.out.write(flags.json ? `${JSON.stringify({ text, ...result })}\n` : describe(text, result));
  }
}

function describe(text: string, score: Score): string {
  const { nats, standardError, tokens } = score;
  const perToken = (nats / tokens).toFixed(4);
  // One draw tells nothing of its own error.
  const error = Number.isNaN(standardError) ? "" : ` ± ${standardError.toFixed(3)}`;
  const estimate = `${atMost(score.bound)}${nats.toFixed(3)}${error} nats, ${perToken} per token`;
  return `${JSON.stringify(text)}: ${estimate} (${tokens} tokens, ${manner(score)})\n`;
}
