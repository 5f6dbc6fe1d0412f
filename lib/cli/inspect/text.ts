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
  svg: string | undefined;
  json: boolean | undefined;
}

export async function inspectText(folder: string, { text, svg, json }: TextFlags, { out }: Streams): Promise<void> {
  await using engine = await createEngine();
  await using model = await engine.load(folder);
  const { found, rows, picture } = await shownBy(model, text);
  if (svg !== undefined) {
    const drawn = Buffer.from(picture((id) => model.tokenizer?.decode([id]) ?? String(id)));
    await writeAtomically(svg, (handle) => writeAll(handle, drawn));
  }
  out.write(json ? `${JSON.stringify(found, listed)}\n` : columnsOf(rows));
}

async function shownBy(model: AnyModel, text: string): Promise<Shown> {
  if (model.family === "flow") return states(model, text);
  if (model.family === "thought") return thought(model, text);
  throw new NoemaError("ERR_INVALID_ARGUMENT", `--text looks into flow and thought models; this is ${model.family}`);
}
