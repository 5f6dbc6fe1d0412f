/** What a model makes of a text: a table, a picture or a document, whatever the family. */

import type { AnyModel } from "../../engine.js";
import { createEngine } from "../../engine.js";
import { NoemaError } from "../../errors.js";
import { writeAll, writeAtomically } from "../../files.js";
import { columnsOf } from "../columns.js";
import { listed, type Streams } from "../command.js";
import { states } from "./states.js";
import { thought } from "./thought.js";

/** A family's view of a text. */
export interface Shown<T extends object = object> {
  found: T;
  rows: string[][];
  picture: (decode: (id: number) => string) => string;
}

export interface TextFlags {
  text: string;
  svg?: string;
  think?: string;
  save?: string;
  json?: boolean;
}

export async function inspectText(folder: string, flags: TextFlags, { out }: Streams): Promise<void> {
  const { svg, json } = flags;
  await using engine = await createEngine();
  await using model = await engine.load(folder);
  const { found, rows, picture } = await shownBy(model, flags);
  if (svg !== undefined) {
    const drawn = Buffer.from(picture((id) => model.tokenizer?.decode([id]) ?? String(id)));
    await writeAtomically(svg, (handle) => writeAll(handle, drawn));
  }
  out.write(json ? `${JSON.stringify(found, listed)}\n` : columnsOf(rows));
}

async function shownBy(model: AnyModel, flags: TextFlags): Promise<Shown> {
  if (model.family === "thought") return thought(model, flags);
  for (const name of ["think", "save"] as const)
    if (flags[name] !== undefined)
      throw new NoemaError("ERR_UNSUPPORTED", `"${name}" is for thought models; this is a ${model.family} one`);
  if (model.family === "flow") return states(model, flags.text);
  throw new NoemaError("ERR_INVALID_ARGUMENT", `--text looks into flow and thought models; this is ${model.family}`);
}
