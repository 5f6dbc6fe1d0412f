/** `noema inspect`: what a checkpoint folder holds, from its headers alone; of a flow also what the states of a text are. */

import type { Command } from "commander";
import { openCheckpoint } from "../../checkpoint/folder.js";
import { createEngine } from "../../engine.js";
import { NoemaError } from "../../errors.js";
import { writeAll, writeAtomically } from "../../files.js";
import type { Level } from "../../flow/inspect.js";
import { statesPicture } from "../../flow/picture.js";
import { example, listed, type Streams } from "../command.js";

interface Inspection {
  folder: string;
  layout: string;
  family: string;
  config: object;
  tokenizer: boolean;
  parameters: number;
  bytes: number;
  dtypes: string[];
  tensors: { name: string; canonical: string; dtype: string; shape: readonly number[]; bytes: number }[];
}

export function inspect(program: Command, streams: Streams): void {
  program
    .command("inspect")
    .description("show a checkpoint's configuration and tensors; of a flow, with --text, every state of a text")
    .argument("<model>", "a checkpoint folder")
    .option("--text <text>", "flows: the text whose states to show")
    .option("--svg <file>", "with --text: draw them into this file")
    .option("--json", "print one JSON document")
    .addHelpText("after", example("noema inspect models/tales-masked"))
    .action(async (folder: string, { text, svg, json }: { text?: string; svg?: string; json?: boolean }) => {
      if (text !== undefined) return inspectText(folder, { text, svg, json }, streams);
      if (svg !== undefined)
        throw new NoemaError("ERR_INVALID_ARGUMENT", "--svg draws the states of a text: give --text");
      const found = await look(folder);
      streams.out.write(json ? `${JSON.stringify(found, null, 2)}\n` : render(found));
      return undefined;
    });
}

interface TextFlags {
  text: string;
  svg: string | undefined;
  json: boolean | undefined;
}

/** Every state of a text on its way to noise. */
async function inspectText(folder: string, { text, svg, json }: TextFlags, { out }: Streams): Promise<void> {
  await using engine = await createEngine();
  await using model = await engine.load(folder, { family: "flow" });
  const found = await model.inspect(text);
  if (svg !== undefined) {
    const picture = Buffer.from(statesPicture(found, (id) => model.tokenizer?.decode([id]) ?? String(id)));
    await writeAtomically(svg, (handle) => writeAll(handle, picture));
  }
  out.write(json ? `${JSON.stringify(found, listed)}\n` : columnsOf([stateTitles, ...found.levels.map(stateRow)]));
}

const stateTitles = ["state", "norm", "cosine", "directions", "log-det", "right", "reads as"];

function stateRow({ level, norm, cosine, participationRatio, logDet, reading }: Level): string[] {
  const total = logDet?.reduce((sum, nats) => sum + nats, 0);
  return [
    level === 0 ? "0 (text)" : String(level),
    norm.toFixed(2),
    cosine.toFixed(3),
    participationRatio.toFixed(1),
    total?.toFixed(1) ?? "",
    reading === undefined ? "" : `${(100 * reading.accuracy).toFixed(0)} %`,
    reading?.text.replace(/\s+/g, " ") ?? "",
  ];
}

const size = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);

async function look(folder: string): Promise<Inspection> {
  const { layout, config, tensors, tokenizer } = await openCheckpoint(folder);
  const list = Array.from(tensors, ([canonical, { name, dtype, shape, bytes }]) => {
    return { name, canonical, dtype, shape, bytes };
  });
  return {
    folder,
    layout: layout.name,
    family: layout.family,
    config,
    tokenizer: tokenizer !== undefined,
    parameters: list.reduce((sum, { shape }) => sum + size(shape), 0),
    bytes: list.reduce((sum, { bytes }) => sum + bytes, 0),
    dtypes: [...new Set(list.map(({ dtype }) => dtype))],
    tensors: list,
  };
}

/** A setting, or a list of objects with a row for each: the flows of a stack. */
function settingRows(name: string, value: unknown): [string, string][] {
  if (!Array.isArray(value)) return [[name, String(value)]];
  return value.map((one: object, i) => {
    const parts = Object.entries(one).map(([key, setting]) => `${key} ${setting}`);
    return [`${name}[${i}]`, parts.join(", ")];
  });
}

function render({ layout, family, config, tokenizer, parameters, bytes, dtypes, tensors }: Inspection): string {
  const rows = [
    ["family", family],
    ["layout", layout],
    ["parameters", parameters.toLocaleString("en")],
    ["tensors", `${tensors.length}, ${mebibytes(bytes)}, ${dtypes.join(" and ")}`],
    ["tokenizer", tokenizer ? "tokenizer.json" : "none"],
    ...Object.entries(config).flatMap(([name, value]) => settingRows(name, value)),
  ];
  const table = tensors.map(({ name, dtype, shape, bytes: own }) => [
    name,
    `${dtype} [${shape.join(", ")}]`,
    mebibytes(own),
  ]);
  return `${columnsOf(rows)}\n${columnsOf(table)}`;
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 20 ? 3 : 1)} MiB`;
}

/** Rows with their cells under each other. */
function columnsOf(rows: readonly (readonly (string | undefined)[])[]): string {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => (row[i] ?? "").length)));
  return rows
    .map(
      (row) =>
        `${row
          .map((cell, i) => (cell ?? "").padEnd(widths[i]!))
          .join("  ")
          .trimEnd()}\n`,
    )
    .join("");
}
