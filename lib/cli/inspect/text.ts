/** What a model makes of a text: a table, a picture or a document, whatever the family. */

import type { AnyModel } from "../../engine.js";
import { createEngine } from "../../engine.js";
import { NoemaError } from "../../errors.js";
import { writeAll, writeAtomically } from "../../files.js";
import type { Seed } from "../../rng.js";
import { type BoundFlags, loadOptions, numberOf, seedOf } from "../bound-flags.js";
import { columnsOf } from "../columns.js";
import { listed, type Streams } from "../command.js";
import { type DeviceFlag, deviceOption } from "../device-flag.js";
import { states } from "./states.js";
import { thought } from "./thought.js";

/** A family's view of a text. */
export interface Shown<T extends object = object> {
  found: T;
  rows: string[][];
  picture: (decode: (id: number) => string) => string;
}

export interface TextFlags extends DeviceFlag, Pick<BoundFlags, "precision"> {
  text: string;
  context?: string;
  svg?: string;
  seed?: string;
  threads?: string;
  think?: string;
  save?: string;
  json?: boolean;
}

/** With whose draw, and what ends it. */
export interface LookOptions {
  seed?: Seed;
  signal: AbortSignal;
}

interface Context {
  signal: AbortSignal;
  streams: Streams;
}

export async function inspectText(folder: string, flags: TextFlags, { signal, streams }: Context): Promise<void> {
  const { out } = streams;
  const { svg, json } = flags;
  const threads = flags.threads === undefined ? 0 : numberOf(flags.threads, "threads");
  await using engine = await createEngine({ threads, ...deviceOption(flags) });
  await using model = await engine.load(folder, loadOptions(flags));
  const seed = flags.seed === undefined ? {} : { seed: seedOf(flags.seed) };
  const { found, rows, picture } = await shownBy(model, flags, { ...seed, signal });
  if (svg !== undefined) {
    const drawn = Buffer.from(picture((id) => model.tokenizer?.decode([id]) ?? String(id)));
    await writeAtomically(svg, (handle) => writeAll(handle, drawn));
  }
  out.write(json ? `${JSON.stringify(found, listed)}\n` : columnsOf(rows));
}

/** Flags that one family alone knows. */
const familyFlags = { think: "thought", save: "thought", context: "flow" } as const;

async function shownBy(model: AnyModel, flags: TextFlags, options: LookOptions): Promise<Shown> {
  const { family } = model;
  for (const [name, own] of Object.entries(familyFlags))
    if (flags[name as keyof typeof familyFlags] !== undefined && own !== family)
      throw new NoemaError("ERR_UNSUPPORTED", `"${name}" is for ${own} models; this is a ${family} one`);
  if (model.family === "thought") return thought(model, flags, options);
  if (model.family === "flow") return states(model, flags, options);
  throw new NoemaError("ERR_INVALID_ARGUMENT", `--text looks into flow and thought models; this is ${model.family}`);
}
