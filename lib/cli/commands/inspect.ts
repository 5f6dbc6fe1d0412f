/** `noema inspect`: what a checkpoint folder holds, from its headers alone; with --text also what the model makes of that. */

import type { Command } from "commander";
import { openCheckpoint } from "../../checkpoint/folder.js";
import { NoemaError } from "../../errors.js";
import { columnsOf } from "../columns.js";
import { example, type Streams } from "../command.js";
import { addDeviceFlag } from "../device-flag.js";
import { inspectText, type TextFlags } from "../inspect/text.js";
import { interruptible } from "../interrupt.js";

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
  const command = program
    .command("inspect")
    .description(
      "show a checkpoint's configuration and tensors; with --text, the states of a flow's text or the thought of a text",
    )
    .argument("<model>", "a checkpoint folder")
    .option("--text <text>", "of flow and thought models: the text to look into")
    .option("--context <text>", "with --text, flows: text in front that is given, and not looked into")
    .option("--svg <file>", "with --text: draw it into this file")
    .option("--think <steps>", "with --text, thought models: steps of the fast loop (default: the checkpoint's)")
    .option("--save <file>", "with --text, thought models: keep the thought, for generate --thought")
    .option("--seed <n>", "with --text: of what is drawn (default: 0)")
    .option("--threads <n>", "with --text: 0: one per core (default: 0)")
    .option("--precision <name>", "with --text: f32 or bf16: how weights are held")
    .option("--json", "print one JSON document");
  addDeviceFlag(command)
    .addHelpText("after", example("noema inspect models/tales-masked"))
    .action(async (folder: string, { text, ...flags }: Partial<TextFlags>) => {
      if (text !== undefined)
        return interruptible("interrupted", (signal) => inspectText(folder, { text, ...flags }, { signal, streams }));
      const { json, ...others } = flags;
      const [name] = Object.keys(others);
      if (name !== undefined)
        throw new NoemaError("ERR_INVALID_ARGUMENT", `--${name} is about what is in a text: give --text`);
      const found = await look(folder);
      streams.out.write(json ? `${JSON.stringify(found, null, 2)}\n` : render(found));
      return undefined;
    });
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
