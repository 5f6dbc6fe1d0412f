/** `noema train`: trains a model, or goes on where the run's folder stands. */

import { readFile } from "node:fs/promises";
import { type Command, Option } from "commander";
import { createEngine } from "../../engine.js";
import type { NoemaError } from "../../errors.js";
import { ioError } from "../../files.js";
import { parseObject } from "../../json.js";
import { train } from "../../train.js";
import {
  type ModelShape,
  optionNames,
  optionTable,
  shapeDefaults,
  type TrainOptions,
  type WeightedFile,
} from "../../training/options.js";
import { persistently } from "../../training/persist.js";
import type { TrainingEvent } from "../../training/train.js";
import { example, kebab, type Streams } from "../command.js";
import { addDeviceFlag, type DeviceFlag, deviceOption } from "../device-flag.js";
import { interruptible } from "../interrupt.js";
import { monitorLines } from "../monitors.js";
import { type Progress, startProgress } from "../progress.js";

type Flags = Record<string, unknown> & DeviceFlag & { json?: boolean; threads?: string };

/** Flags that are lists or paths; the others come from the table of options. */
const ownFlags: [flags: string, help: string][] = [
  ["--run <folder>", "where checkpoint, state, metrics and curve go; a state in it is gone on from"],
  ["--corpus <files...>", "text to train on, plain or JSON lines (.jsonl); file=2 counts twice"],
  ["--held-out <files...>", "text for held-out evaluation"],
  ["--tokenizer <file>", "a tokenizer.json"],
  ["--init <folder>", "start from this checkpoint instead of fresh weights"],
  ["--family <name>", `of a fresh model: masked (the default) or autoregressive; flows take a recipe with "flow"`],
  ["--sample-prompts <texts...>", "prompts of the sample texts"],
  ["--cache <folder>", "where tokenised text is kept"],
  ["--changes <names...>", "options that may differ from the saved state's"],
];

const shapeHelp: Record<keyof ModelShape, string> = {
  hidden: "width of a fresh model",
  layers: "its number of blocks",
  heads: "its attention heads",
  kvHeads: "heads of keys and values; 0: as many as heads",
  intermediate: "width of the feed-forward layer; 0: 8/3 of the width, rounded up to a multiple of 32",
  ropeTheta: "base of the rotary angles",
};

export function registerTrain(program: Command, streams: Streams): void {
  const command = program
    .command("train")
    .description("train a model on text; runs are resumable, bit for bit")
    .argument("[recipe]", "a JSON file of options; flags override it");
  for (const [flags, help] of ownFlags) command.option(flags, help);
  for (const name of optionNames) command.addOption(tableFlag(name));
  for (const [name, help] of Object.entries(shapeHelp))
    command.option(`--${kebab(name)} <number>`, `${help} (default: ${shapeDefaults[name as keyof ModelShape]})`);
  addDeviceFlag(command)
    .option("--threads <number>", "threads of the engine; 0: one per core (default: 0)")
    .option("--json", "print events as JSON lines")
    .addHelpText(
      "after",
      example(
        "noema train --run runs/tiny --corpus stories.txt --tokenizer models/tales-masked/tokenizer.json --steps 200",
      ),
    )
    .action(async (recipe: string | undefined, flags: Flags) => {
      const options = {
        ...(recipe === undefined ? {} : await readRecipe(recipe)),
        ...fromFlags(flags),
      } as TrainOptions;
      const meaning = "interrupted; the state was saved, the same command goes on from it";
      await interruptible(meaning, (signal) => runTraining({ ...options, signal }, flags, streams));
    });
}

function tableFlag(name: (typeof optionNames)[number]): Option {
  const entry = optionTable[name];
  const option = new Option(`--${kebab(name)} <${entry.kind === "choice" ? "name" : "number"}>`);
  const choices = entry.kind === "choice" ? `; one of ${entry.choices.join(", ")}` : "";
  option.description = `${entry.help}${choices} (default: ${entry.default})`;
  return option;
}

async function readRecipe(path: string): Promise<Partial<TrainOptions>> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw ioError("reading the recipe", path, error);
  }
  return parseObject(bytes, path, "ERR_INVALID_ARGUMENT");
}

/** Only what was given: what was not is the recipe's business, or the defaults'. */
function fromFlags({ json: _, threads: __, device: ___, ...flags }: Flags): Partial<TrainOptions> {
  const options: Record<string, unknown> = {};
  const shape: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(flags)) {
    if (Object.hasOwn(shapeHelp, name)) shape[name] = numeric(value);
    else if (name === "corpus") options[name] = (value as string[]).map(weightedFile);
    else options[name] = Object.hasOwn(optionTable, name) ? tableValue(name as keyof typeof optionTable, value) : value;
  }
  return { ...options, ...(Object.keys(shape).length > 0 && { shape }) } as Partial<TrainOptions>;
}

function tableValue(name: keyof typeof optionTable, value: unknown): unknown {
  return optionTable[name].kind === "choice" ? value : numeric(value);
}

/** What is no number stays text, and is refused with the option's name where all options are checked. */
function numeric(value: unknown): unknown {
  const number = Number(value);
  return Number.isNaN(number) || value === "" ? value : number;
}

function weightedFile(text: string): WeightedFile | string {
  const found = /^(.+)=(\d+(?:\.\d+)?)$/.exec(text);
  return found ? { path: found[1]!, weight: Number(found[2]) } : text;
}

/** A full disk is given ten minutes to be emptied. */
const RETRY_SECONDS = 30;
const RETRIES = 20;

async function runTraining(
  options: TrainOptions,
  { json, threads = "0", ...flags }: Flags,
  streams: Streams,
): Promise<void> {
  await using engine = await createEngine({ threads: numeric(threads) as number, ...deviceOption(flags) });
  const report = json ? jsonLines(streams) : new Report(streams);
  try {
    await using training = train(engine, options);
    const onWait = ({ message }: NoemaError) =>
      streams.error.write(`${message}; nothing is lost yet, trying again in ${RETRY_SECONDS} s\n`);
    const patience = { wait: RETRY_SECONDS, attempts: RETRIES, onWait, signal: options.signal };
    for await (const event of persistently(training, patience)) report.show(event);
  } finally {
    report.stop();
  }
}

function jsonLines({ out }: Streams) {
  return { show: (event: TrainingEvent) => void out.write(`${JSON.stringify(event)}\n`), stop: () => undefined };
}

/** For people: a bar on stderr, and a line for what is worth keeping. */
class Report {
  #progress: Progress | undefined;

  constructor(readonly streams: Streams) {}

  show(event: TrainingEvent): void {
    if (event.type === "start") this.#start(event.step, event.steps);
    else if (event.type === "step") this.#step(event);
    const line = describe(event);
    if (line) this.streams.out.write(`${line}\n`);
  }

  #start(step: number, steps: number): void {
    const format = "{bar} {value}/{total} loss {loss} {speed} tokens/s, {left} left";
    this.#progress = startProgress(this.streams, { format, total: steps, start: step, quiet: false });
    this.#progress.update(step, { loss: "-", speed: "-", left: "-" });
  }

  #step({ step, loss, tokensPerSecond, eta }: Extract<TrainingEvent, { type: "step" }>): void {
    this.#progress?.update(step, { loss: loss.toFixed(3), speed: Math.round(tokensPerSecond), left: duration(eta) });
  }

  stop(): void {
    this.#progress?.stop();
  }
}

function describe(event: TrainingEvent): string | undefined {
  switch (event.type) {
    case "start": {
      const size = `${(event.parameters / 1e6).toFixed(2)} M parameters, ${event.corpusTokens} tokens of text`;
      return `${event.step > 0 ? `going on from step ${event.step}` : "starting"}: ${size}`;
    }
    case "held-out": {
      const { step, bound, standardError } = event;
      const line = `step ${step}: held-out ${bound.toFixed(4)} ± ${standardError.toFixed(4)} nats per token`;
      return [line, ...monitorLines(event)].join("\n");
    }
    case "sample":
      return `step ${event.step}: ${JSON.stringify(event.text)}`;
    case "finish":
      return event.reason === "complete"
        ? `done after ${event.step} steps`
        : `stopped at step ${event.step}; the same command goes on`;
    default:
      return undefined;
  }
}

export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "-";
  const whole = Math.round(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h > 0 ? `${h} h ${m} min` : m > 0 ? `${m} min ${s} s` : `${s} s`;
}
