/** The command line as a function: arguments in, exit code out. One file per command in commands/, listed here. */

import { Command, CommanderError } from "commander";
import { NoemaError } from "../errors.js";
import { describe } from "../json.js";
import { packageVersion } from "../package.js";
import { example, type Register, type Streams, sayable } from "./command.js";
import { bench } from "./commands/bench.js";
import { doctor } from "./commands/doctor.js";
import { registerEdit } from "./commands/edit.js";
import { registerEvaluate } from "./commands/evaluate.js";
import { generate } from "./commands/generate.js";
import { inspect } from "./commands/inspect.js";
import { registerScore } from "./commands/score.js";
import { registerTrain } from "./commands/train.js";
import { verify } from "./commands/verify.js";

const commands: Register[] = [
  ...[generate, registerEdit, registerScore, registerTrain, registerEvaluate],
  ...[inspect, verify, bench, doctor],
];

/** Exit codes: 0 done, 1 failed, 2 not understood. */
export async function run(args: readonly string[], streams: Streams): Promise<number> {
  const program = createProgram(streams);
  try {
    await program.parseAsync([...args], { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0;
    if (error instanceof CommanderError && error.code === "commander.help") return 2; // no command: its help was shown
    const failure = error instanceof CommanderError ? misuse(error) : asNoemaError(error);
    streams.error.write(`${reported(failure, args.includes("--json"))}\n`);
    return error instanceof CommanderError ? 2 : 1;
  }
}

export function createProgram(streams: Streams): Command {
  const program = new Command("noema")
    .description("Language models that do not write one token at a time")
    .version(packageVersion)
    .exitOverride()
    .showSuggestionAfterError(true)
    .configureOutput({
      writeOut: (text) => streams.out.write(text),
      writeErr: (text) => streams.error.write(text),
      outputError: () => {}, // run() says it, in noema's form
    })
    .addHelpText("after", example("noema doctor"));
  for (const register of commands) register(program, streams);
  return program;
}

/** Commander's complaint in noema's words; its second line holds the spelling that was probably meant. */
function misuse(error: CommanderError): NoemaError {
  const isUnknown = ["commander.unknownOption", "commander.unknownCommand"].includes(error.code);
  const message = error.message
    .replace(/^error: /, "")
    .replace(/\s*\n\s*\(Did you mean (.*)\?\)/s, "; did you mean $1?")
    .replaceAll("'", '"');
  if (error.code === "commander.help")
    return new NoemaError("ERR_INVALID_ARGUMENT", "no command given; see noema --help");
  return new NoemaError(isUnknown ? "ERR_UNKNOWN_OPTION" : "ERR_INVALID_ARGUMENT", message);
}

function asNoemaError(error: unknown): NoemaError {
  if (error instanceof NoemaError) return error;
  const message = error instanceof Error ? (error.stack ?? error.message) : describe(error);
  return new NoemaError("ERR_INTERNAL", message, {}, { cause: error });
}

function reported({ code, message, details }: NoemaError, isJson: boolean): string {
  if (!isJson) return `error ${code}: ${message}`;
  return JSON.stringify({ error: { code, message, details: sayable(details) } });
}
