/** `noema edit`: changes tokens of a text in a flow's continuous space; what depends on them follows. */

import type { Command } from "commander";
import { createEngine } from "../../engine.js";
import { NoemaError } from "../../errors.js";
import type { FlowModel } from "../../flow/model.js";
import { numberOf, seedOf } from "../bound-flags.js";
import { example, listed, type Streams } from "../command.js";
import { addDeviceFlag, type DeviceFlag, deviceOption } from "../device-flag.js";
import { runsOf } from "../painter.js";
import { paletteOf } from "../palette.js";

interface EditFlags extends DeviceFlag {
  text: string;
  context?: string;
  replace: string[];
  level?: string;
  seed?: string;
  threads?: string;
  json?: boolean;
}

export function registerEdit(program: Command, streams: Streams): void {
  const command = program
    .command("edit")
    .description(
      "change words of a text in a flow's continuous space: what comes before them in the flow's order stays",
    )
    .argument("<model>", "a checkpoint folder of a flow")
    .requiredOption("--text <text>", "the text to change")
    .option("--context <text>", "text in front that is given, and stays as it is")
    .requiredOption("--replace <old=new...>", "the first occurrence of old, of as many tokens as new")
    .option("--level <n>", "the state to change: the flows from there down carry it on (default: 0, the text's own)")
    .option("--seed <n>", "of the encoder's noise (default: 0)");
  addDeviceFlag(command)
    .option("--threads <n>", "0: one per core (default: 0)")
    .option("--json", "print one JSON document")
    .addHelpText(
      "after",
      example('noema edit models/tales-flow --text "The cat sat on the mat." --replace " cat= dog"'),
    )
    .action((folder: string, flags: EditFlags) => run(folder, flags, streams));
}

async function run(folder: string, flags: EditFlags, { out, error }: Streams): Promise<void> {
  const threads = numberOf(flags.threads ?? "0", "threads");
  await using engine = await createEngine({ threads, ...deviceOption(flags) });
  await using model = await engine.load(folder, { family: "flow" });
  const ids = tokensOf(model, flags.text);
  const tokens = flags.replace.flatMap((change) => replacement(model, ids, change));
  const level = numberOf(flags.level ?? "0", "level");
  const context = flags.context === undefined ? {} : { context: flags.context };
  const edited = await model.edit({ text: ids, ...context, tokens, level, seed: seedOf(flags.seed ?? "0") });
  if (flags.json) {
    out.write(`${JSON.stringify(edited, listed)}\n`);
    return;
  }
  const { bold, green } = paletteOf(out);
  const different = edited.differences.filter(({ before, after }) => before !== after);
  const changed = new Map(different.map(({ at, asked }) => [at, asked ? bold : green]));
  const decode = (run: number[]) => model.tokenizer!.decode(run, { skipSpecialTokens: true });
  const runs = runsOf(edited.ids, (at) => changed.get(at) ?? plain);
  out.write(`${runs.map(({ run, style }) => style(decode(run))).join("")}\n`);
  if (edited.end !== undefined) error.write(`token ${edited.end} is an end of text: the text ends before it\n`);
  for (const { at, after, wanted = after } of edited.differences)
    if (wanted !== after)
      error.write(`token ${at} is "${decode([after])}", not "${decode([wanted])}": a lower --level holds on to it\n`);
}

const plain = (text: string): string => text;

function tokensOf({ tokenizer }: FlowModel, text: string): Int32Array {
  if (tokenizer) return tokenizer.encode(text);
  throw new NoemaError(
    "ERR_BAD_TOKENIZER",
    "the model's folder has no tokenizer.json, so its texts cannot be edited here",
  );
}

/** The tokens of "old=new": old's first occurrence in the text, token by token. */
function replacement(model: FlowModel, ids: Int32Array, change: string): { at: number; token: number }[] {
  const [, old, wanted] = /^(.+?)=(.*)$/s.exec(change) ?? [];
  if (old === undefined) throw new NoemaError("ERR_INVALID_ARGUMENT", `--replace is "${change}", expected old=new`);
  const [before, after] = [old, wanted!].map((text) => tokensOf(model, text)) as [Int32Array, Int32Array];
  if (before.length !== after.length) {
    const message = `"${old}" has ${before.length} tokens and "${wanted}" ${after.length}: expected as many, for positions stay`;
    throw new NoemaError("ERR_INVALID_ARGUMENT", message);
  }
  const at = ids.findIndex((_, i) => before.every((token, j) => ids[i + j] === token));
  if (at < 0) throw new NoemaError("ERR_INVALID_ARGUMENT", `the text's tokens do not hold those of "${old}"`);
  return Array.from(after, (token, j) => ({ at: at + j, token }));
}
