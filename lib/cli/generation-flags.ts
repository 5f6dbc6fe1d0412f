/** The flags that `generate` and `bench` share: what a text is written with, by every family. */

import type { Command } from "commander";
import type { AnyModel } from "../engine.js";
import { NoemaError } from "../errors.js";
import type { FlowModel } from "../flow/model.js";
import type { Inversion } from "../flow/plan.js";
import type { Generation } from "../generation.js";
import type { Thought } from "../posterior/thought.js";
import type { Seed } from "../rng.js";
import type { ThoughtModel } from "../thought/model.js";
import { numberOf, seedOf } from "./bound-flags.js";
import { addDecodingFlags, type DecodingFlags, decodingOptions } from "./decoding-flags.js";

export interface GenerationFlags extends DecodingFlags {
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
  infill?: string;
}

export function addGenerationFlags(command: Command): Command {
  command
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
    .option("--refit-every <n>", "thought models: fit the thought anew after so many tokens (default: 0, never)");
  return addDecodingFlags(command);
}

/** Flags that one family alone knows. */
const familyFlags = {
  flow: ["inversion", "exit", "ancestral"],
  thought: ["think", "thought", "toward", "share", "layers", "priorScale", "rounds", "drafts", "refitEvery"],
  masked: ["infill", "decoding"],
} as const;

/** The thought that the files make, if there are any. */
export async function givenThought(model: AnyModel, flags: GenerationFlags): Promise<Thought | undefined> {
  if (model.family !== "thought") return undefined;
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

function refuseForeign(flags: GenerationFlags, own: keyof typeof familyFlags): void {
  for (const [family, names] of Object.entries(familyFlags))
    for (const name of family === own ? [] : names)
      if (flags[name] !== undefined)
        throw new NoemaError("ERR_UNSUPPORTED", `"${name}" is for ${family} models; this is a ${own} one`);
}

/** What a text is begun with, beside what the flags say. */
export interface Given {
  prompt: string;
  refine: boolean;
  thought: Thought | undefined;
  signal: AbortSignal;
  documentStart?: boolean | undefined;
  /** Instead of the flags'. */
  seed?: Seed;
  /** Masked models: an end-of-text token does not end the text. */
  wholeLength?: boolean;
}

/** What the family understands of the flags; a flag that is another family's is refused. */
export function startGeneration(model: AnyModel, flags: GenerationFlags, given: Given): Generation {
  const { prompt, refine, signal, documentStart, thought, wholeLength } = given;
  const seed = given.seed ?? (flags.seed === undefined ? undefined : seedOf(flags.seed));
  const always = { refine, signal, ...(seed !== undefined && { seed }) };
  const asked = {
    prompt,
    ...(flags.maxTokens !== undefined && { maxTokens: numberOf(flags.maxTokens, "max-tokens") }),
    ...(documentStart && { documentStart }),
  };
  if (model.family === "autoregressive") return model.generate();
  refuseForeign(flags, model.family);
  if (model.family === "flow") return invert(model, flags, { ...asked, ...always });
  if (model.family === "thought") return think(model, flags, { ...asked, ...always, ...(thought && { thought }) });
  const decoding = { ...decodingOptions(flags), ...(wholeLength && { stopAtEos: false }) };
  if (flags.infill !== undefined) return model.infill({ text: flags.infill, decoding, ...always });
  return model.generate({ ...asked, decoding, ...always });
}

/** Of the decoding flags, flows and thought models have temperature, topK and topP alone. */
function drawing(flags: GenerationFlags, family: string) {
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

/** What a flow's texts are drawn by. */
export function flowDrawing(flags: GenerationFlags) {
  refuseForeign(flags, "flow");
  return { ...drawing(flags, "flow"), ...(flags.ancestral !== undefined && { ancestral: flags.ancestral }) };
}

function invert(model: FlowModel, flags: GenerationFlags, options: Parameters<FlowModel["generate"]>[0]): Generation {
  // Any word: what is none of the ways is refused where they are known.
  const inversion = flags.inversion as Inversion | undefined;
  return model.generate({
    ...options,
    ...flowDrawing(flags),
    ...(inversion !== undefined && { inversion }),
    ...(flags.exit !== undefined && { exit: numberOf(flags.exit, "exit") }),
  });
}

function think(
  model: ThoughtModel,
  flags: GenerationFlags,
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
