/** `noema generate`: continues a text or fills its holes, shown while it unfolds. */

import { text as readAll } from "node:stream/consumers";
import type { Command } from "commander";
import { type AnyModel, createEngine } from "../../engine.js";
import { NoemaError } from "../../errors.js";
import type { FlowModel } from "../../flow/model.js";
import type { Inversion } from "../../flow/plan.js";
import type { Generation, GenerationResult } from "../../generation.js";
import type { Thought } from "../../posterior/thought.js";
import type { ThoughtModel } from "../../thought/model.js";
import { type BoundFlags, loadOptions, numberOf } from "../bound-flags.js";
import { example, listed, type Streams } from "../command.js";
import { addDecodingFlags, type DecodingFlags, decodingOptions } from "../decoding-flags.js";
import { addDeviceFlag, type DeviceFlag, deviceOption } from "../device-flag.js";
import { interruptible } from "../interrupt.js";
import { LiveRegion, type Terminal } from "../live-region.js";
import { Painter } from "../painter.js";
import { paletteOf } from "../palette.js";

interface GenerateFlags extends DecodingFlags, Pick<BoundFlags, "precision" | "json">, DeviceFlag {
  prompt?: string;
  infill?: string;
  maxTokens?: string;
  seed?: string;
  inversion?: string;
  exit?: string;
  ancestral?: boolean;
  think?: string;
  thought?: string;
  toward?: string;
  share?: string;
  layers?: string;
  priorScale?: string;
  rounds?: string;
  drafts?: string;
  refitEvery?: string;
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
    .option("--max-tokens <n>", "new tokens (default: 128, or what the model's positions leave)")
    .option("--seed <n>", "fixes the text (default: 0)")
    .option(
      "--inversion <way>",
      "flows: sequential, jacobi, or auto, the faster one of each flow (default: sequential)",
    )
    .option(
      "--exit <level>",
      "flows: read the text from this state, by its readout, the flows below left out (default: 0)",
    )
    .option(
      "--ancestral",
      "flows: draw from the mixture nearest the noise instead of inverting it; --top-k and --top-p cut what is drawn from",
    )
    .option("--think <steps>", "thought models: steps of the fast loop (default: the checkpoint's)")
    .option(
      "--thought <file>",
      "thought models: begin by this thought instead of the prompt's; rounds and refits replace it",
    )
    .option("--toward <file>", "with --thought: a thought on the way from it to this one")
    .option("--share <x>", "with --toward: how far, 0 to 1 (default: 0.5)")
    .option("--layers <list>", "with --thought: only these layers read it, as in 0,2 (default: all)")
    .option("--prior-scale <x>", "thought models, without a prompt: scale of the draw from the prior (default: 1)")
    .option(
      "--rounds <n>",
      "thought models: think again about the draft, so many times; the best is the text (default: 0)",
    )
    .option("--drafts <n>", "thought models: write so many texts; the best is the text (default: 1)")
    .option("--refit-every <n>", "thought models: fit the thought anew after so many tokens (default: 0, never)")
    .option("--document-start", "put an end-of-text token, which separates texts in training, before the prompt");
  addDeviceFlag(addDecodingFlags(command))
    .option("--precision <name>", "f32 or bf16: how weights are held")
    .option("--threads <n>", "0: one per core; the text does not depend on it (default: 0)")
    .option("--refine", "with --json: every step as well")
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
  const refine = isLive || (flags.json === true && flags.refine === true);
  const prompt = flags.prompt ?? (flags.infill === undefined ? await standardInput(streams) : "");
  const thought = model.family === "thought" ? await givenThought(model, flags) : undefined;
  const generation = start(model, { flags, signal, prompt, refine, thought });
  if (flags.json) await printEvents(generation, streams);
  else if (isLive) await show(generation, model, { streams, isInfill: flags.infill !== undefined });
  else streams.out.write(`${(await generation).text}\n`);
}

interface Start extends Pick<Context, "flags" | "signal"> {
  prompt: string;
  refine: boolean;
  thought: Thought | undefined;
}

/** Flags that one family alone knows. */
const familyFlags = {
  flow: ["inversion", "exit", "ancestral"],
  thought: ["think", "thought", "toward", "share", "layers", "priorScale", "rounds", "drafts", "refitEvery"],
  masked: ["infill", "decoding"],
} as const;

/** The thought that the files make, if there are any. */
async function givenThought(model: ThoughtModel, flags: GenerateFlags): Promise<Thought | undefined> {
  const { thought: file, toward, share, layers } = flags;
  const needs = (name: "toward" | "share" | "layers", needed: string) =>
    new NoemaError("ERR_INVALID_ARGUMENT", `--${name}: expected --${needed} beside it`, { [name]: flags[name] });
  if (share !== undefined && toward === undefined) throw needs("share", "toward");
  if (file === undefined) {
    if (toward !== undefined) throw needs("toward", "thought");
    if (layers !== undefined) throw needs("layers", "thought");
    return undefined;
  }
  let thought = await model.loadThought(file);
  if (toward !== undefined)
    thought = model.between(thought, await model.loadThought(toward), numberOf(share ?? "0.5", "share"));
  if (layers === undefined) return thought;
  return model.onlyLayers(
    thought,
    layers.split(",").map((layer) => numberOf(layer, "layers")),
  );
}

function refuseForeign(flags: GenerateFlags, own: keyof typeof familyFlags): void {
  for (const [family, names] of Object.entries(familyFlags))
    for (const name of family === own ? [] : names)
      if (flags[name] !== undefined)
        throw new NoemaError("ERR_UNSUPPORTED", `"${name}" is for ${family} models; this is a ${own} one`);
}

function start(model: AnyModel, { flags, signal, prompt, refine, thought }: Start): Generation {
  const seed = flags.seed === undefined ? {} : { seed: seedOf(flags.seed) };
  const shared = { decoding: decodingOptions(flags), refine, signal, ...seed };
  const asked = {
    prompt,
    ...(flags.maxTokens === undefined ? {} : { maxTokens: numberOf(flags.maxTokens, "max-tokens") }),
    ...(flags.documentStart ? { documentStart: true } : {}),
  };
  if (model.family === "autoregressive") return model.generate();
  refuseForeign(flags, model.family);
  if (model.family === "flow") return invert(model, flags, { ...asked, refine, signal, ...seed });
  if (model.family === "thought") {
    const given = thought === undefined ? {} : { thought };
    return think(model, flags, { ...asked, ...given, refine, signal, ...seed });
  }
  if (flags.infill !== undefined) return model.infill({ text: flags.infill, ...shared });
  return model.generate({ ...asked, ...shared });
}

/** Of the decoding flags, flows and thought models have temperature, topK and topP alone. */
function drawing(flags: GenerateFlags, family: string) {
  const { rule: _, temperature, topK, topP, ...others } = decodingOptions(flags);
  const [name] = Object.keys(others);
  if (name !== undefined)
    throw new NoemaError("ERR_UNSUPPORTED", `"${name}" is for masked models; this is a ${family} one`);
  return {
    ...(temperature !== undefined && { temperature }),
    ...(topK !== undefined && { topK }),
    ...(topP !== undefined && { topP }),
  };
}

function invert(model: FlowModel, flags: GenerateFlags, options: Parameters<FlowModel["generate"]>[0]): Generation {
  // Any word: what is none of the ways is refused where they are known.
  const inversion = flags.inversion as Inversion | undefined;
  return model.generate({
    ...options,
    ...drawing(flags, "flow"),
    ...(flags.ancestral !== undefined && { ancestral: flags.ancestral }),
    ...(inversion !== undefined && { inversion }),
    ...(flags.exit !== undefined && { exit: numberOf(flags.exit, "exit") }),
  });
}

function think(
  model: ThoughtModel,
  flags: GenerateFlags,
  options: Parameters<ThoughtModel["generate"]>[0] & { documentStart?: boolean },
): Generation {
  // Every text begins with the token that --document-start puts there.
  const { documentStart: _, ...asked } = options;
  return model.generate({
    ...asked,
    ...drawing(flags, "thought"),
    ...(flags.think !== undefined && { think: { steps: numberOf(flags.think, "think") } }),
    ...(flags.priorScale !== undefined && { priorScale: numberOf(flags.priorScale, "prior-scale") }),
    ...(flags.rounds !== undefined && { rounds: numberOf(flags.rounds, "rounds") }),
    ...(flags.drafts !== undefined && { drafts: numberOf(flags.drafts, "drafts") }),
    ...(flags.refitEvery !== undefined && { refitEvery: numberOf(flags.refitEvery, "refit-every") }),
  });
}

/** Up to 64 bits, so not by way of a number. */
function seedOf(text: string): bigint | number {
  return /^\d+$/.test(text) ? BigInt(text) : numberOf(text, "seed");
}

async function standardInput({ input }: Streams): Promise<string> {
  if (!input || (input as NodeJS.ReadStream).isTTY) return "";
  return (await readAll(input)).replace(/\r?\n$/, "");
}

async function printEvents(generation: Generation, { out }: Streams): Promise<void> {
  for await (const event of generation) out.write(`${JSON.stringify(event, listed)}\n`);
}

interface Show {
  streams: Streams;
  isInfill: boolean;
}

/** Live: masks as dim blocks, what was just decided in colour. */
async function show(generation: Generation, model: AnyModel, { streams, isInfill }: Show): Promise<void> {
  const palette = paletteOf(streams.out);
  const decode = (ids: number[]): string => decodeWith(model, ids);
  const painter = new Painter(decode, palette, generation.partial.usage.promptTokens);
  const region = new LiveRegion(streams.out);
  try {
    for await (const event of generation) if (event.type === "refine") region.update(() => painter.frame(event));
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
