/** `noema generate`: continues a text or fills its holes, shown while it unfolds. */

import { text as readAll } from "node:stream/consumers";
import type { Command } from "commander";
import { type AnyModel, createEngine } from "../../engine.js";
import type { Generation, GenerationResult, RefineEvent } from "../../generation.js";
import { type BoundFlags, loadOptions, numberOf } from "../bound-flags.js";
import { example, listed, type Streams } from "../command.js";
import { addDeviceFlag, type DeviceFlag, deviceOption } from "../device-flag.js";
import { addGenerationFlags, type GenerationFlags, givenThought, startGeneration } from "../generation-flags.js";
import { interruptible } from "../interrupt.js";
import { LiveRegion, type Terminal } from "../live-region.js";
import { Painter } from "../painter.js";
import { paletteOf } from "../palette.js";

interface GenerateFlags extends GenerationFlags, Pick<BoundFlags, "precision" | "json">, DeviceFlag {
  prompt?: string;
  threads?: string;
  documentStart?: boolean;
  refine?: boolean;
}

export function generate(program: Command, streams: Streams): void {
  const command = program
    .command("generate")
    .description("continue a text, or fill its holes; on a terminal the text is shown while it unfolds")
    .argument("<model>", "a checkpoint folder")
    .option("--prompt <text>", "the text to continue (default: standard input, when it is not a terminal)")
    .option("--infill <text>", 'a text with holes instead: "[mask]" is one token, "[mask:12]" are twelve')
    .option("--document-start", "put an end-of-text token, which separates texts in training, before the prompt");
  addDeviceFlag(addGenerationFlags(command))
    .option("--precision <name>", "f32 or bf16: how weights are held")
    .option("--threads <n>", "0: one per core; the text does not depend on it (default: 0)")
    .option(
      "--refine",
      "every step as well: with --json as an event, else as a line before the text; a terminal shows them anyway",
    )
    .option("--json", "print events as JSON lines")
    .addHelpText("after", example('noema generate models/tales-masked --prompt "Once upon a time" --max-tokens 64'))
    .action((folder: string, flags: GenerateFlags) =>
      interruptible("interrupted", (signal) => run(folder, { flags, signal, streams })),
    );
}

interface Context {
  flags: GenerateFlags;
  signal: AbortSignal;
  streams: Streams;
}

async function run(folder: string, { flags, signal, streams }: Context): Promise<void> {
  const threads = flags.threads === undefined ? 0 : numberOf(flags.threads, "threads");
  await using engine = await createEngine({ threads, ...deviceOption(flags) });
  await using model = await engine.load(folder, loadOptions(flags));
  const terminal = streams.out as Terminal & { isTTY?: boolean };
  const isLive = terminal.isTTY === true && !flags.json;
  const refine = isLive || flags.refine === true;
  const prompt = flags.prompt ?? (flags.infill === undefined ? await standardInput(streams) : "");
  const thought = await givenThought(model, flags);
  const { documentStart } = flags;
  const generation = startGeneration(model, flags, { prompt, refine, thought, documentStart, signal });
  if (flags.json) await printEvents(generation, streams);
  else if (isLive) await show(generation, model, { streams, signal, isInfill: flags.infill !== undefined });
  else await print(generation, model, streams);
}

async function standardInput({ input }: Streams): Promise<string> {
  if (!input || (input as NodeJS.ReadStream).isTTY) return "";
  return (await readAll(input)).replace(/\r?\n$/, "");
}

async function printEvents(generation: Generation, { out }: Streams): Promise<void> {
  for await (const event of generation) out.write(`${JSON.stringify(event, listed)}\n`);
}

/** Drafts, where there are any, each as one line, those of a flow with its state; then the text. */
async function print(generation: Generation, model: AnyModel, { out }: Streams): Promise<void> {
  const painter = painterOf(generation, model, out);
  for await (const event of generation) {
    if (event.type !== "refine" || event.level === 0) continue;
    if (event.level !== undefined) {
      out.write(`${painter.line(event)}\n`);
      continue;
    }
    const draft = model.tokenizer ? event.text : decodeWith(model, Array.from(event.ids));
    out.write(`${draft.replace(/\s*\n\s*/g, " ")}\n`);
  }
  out.write(`${(await generation).text}\n`);
}

/** A state of a flow that is not the text yet. */
function isDraft({ level = 0 }: RefineEvent): boolean {
  return level > 0;
}

function painterOf(generation: Generation, model: AnyModel, out: Streams["out"]): Painter {
  const decode = (ids: number[]): string => decodeWith(model, ids);
  return new Painter(decode, paletteOf(out), generation.partial.usage.promptTokens);
}

interface Show {
  streams: Streams;
  signal: AbortSignal;
  isInfill: boolean;
}

/** Live: masks as dim blocks, what was just decided in colour. A flow's drafts stay for a while: there are few, and they come at once. */
async function show(generation: Generation, model: AnyModel, { streams, signal, isInfill }: Show): Promise<void> {
  const palette = paletteOf(streams.out);
  const painter = painterOf(generation, model, streams.out);
  const region = new LiveRegion(streams.out);
  try {
    for await (const event of generation)
      if (event.type !== "refine") continue;
      else if (isDraft(event)) await region.stage(painter.draft(event), signal);
      else region.update(() => painter.frame(event));
    const result = await generation;
    region.finish(isInfill ? [{ text: result.text, style: (text) => text }] : painter.final(result.text));
    streams.error.write(`${palette.dim(describe(result))}\n`);
  } finally {
    region.stop();
  }
}

/** Without a tokenizer, the ids themselves. */
function decodeWith({ tokenizer }: AnyModel, ids: number[]): string {
  return tokenizer?.decode(ids, { skipSpecialTokens: true }) ?? ids.map((id) => `${id} `).join("");
}

function describe({ usage, timing, reason, filled }: GenerationResult): string {
  const seconds = timing.total / 1000;
  const rate = (usage.completionTokens / seconds).toFixed(1);
  const masks = filled > 0 ? `, ${filled} masks filled at the end` : "";
  const passes = `${usage.forwards} ${usage.forwards === 1 ? "pass" : "passes"}`;
  return `${usage.completionTokens} tokens in ${passes}, ${seconds.toFixed(2)} s, ${rate} tokens/s, ${reason}${masks}`;
}
