/** Whatever is given where something else is expected, the answer is a NoemaError. */

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { NoemaError } from "../../lib/errors.js";
import { evaluate, train, verify } from "../../lib/index.js";
import type { TrainOptions } from "../../lib/training/options.js";
import { fakeModelOn, rejection, tokenizerPath } from "../support/fake-addon.js";
import { root } from "../support/files.js";
import { sharedFolder } from "./temporary.js";

const cyclic: Record<string, unknown> = {};
cyclic["self"] = cyclic;
let deep: unknown[] = [];
for (let i = 0; i < 100_000; i++) deep = [deep];
/** Nothing that any argument may be; several cannot become text. */
const garbage = [5n, Symbol("s"), Number.NaN, Object.create(null), cyclic, deep, [Symbol("s")], [5n], { toString: 1 }];
/** What no function, signal or engine may be, besides. */
const more = [...garbage, 1, "x", true, [], {}];

const folder = sharedFolder();
const text = join(folder, "text.txt");
const options = { run: join(folder, "run"), corpus: [text], tokenizer: tokenizerPath, length: 2, steps: 1, batch: 1 };
const shape = { hidden: 8, heads: 1, layers: 1 };
const { engine, model } = await fakeModelOn();
await writeFile(text, "Once upon a time\n");

/** Begins a training, and leaves it. */
async function begin(...given: unknown[]): Promise<void> {
  for await (const _ of (train as (...args: unknown[]) => ReturnType<typeof train>)(...given)) return;
}
const withOption = (name: string) => (value: unknown) => begin(engine, { ...options, shape, [name]: value });
const inFlow = (value: unknown) =>
  withOption("flow")({ flows: [{ kind: "affine", direction: "forward", numLayers: value }] });

const entrances: [name: string, values: unknown[], call: (value: never) => unknown][] = [
  ["evaluate's model", [undefined, null, ...more], (value) => evaluate(value, text)],
  ["evaluate's files", [undefined, null, ...garbage, [], [1], 7], (value) => evaluate(model, value)],
  ["evaluate's options", [null, 5n, 1, "x"], (value) => evaluate(model, text, value)],
  ["verify's folder", [undefined, null, ...more.filter((value) => value !== "x")], (value) => verify(value)],
  ["verify's onArray", more, (onArray) => verify(folder, { onArray })],
  ["train's engine", [undefined, null, ...more], (value) => begin(value, options)],
  ["train's options", [undefined, null, 5n, 1, "x", ...garbage], (value) => begin(engine, value)],
  ...["onProgress", "signal"].map((name): [string, unknown[], (value: never) => unknown] => {
    return [`evaluate's ${name}`, more, (value) => evaluate(model, text, { [name]: value })];
  }),
  ...["length", "limit", "packing", "prefix", "separator", "form", "draws", "seed"].map(
    (name): [string, unknown[], (value: never) => unknown] => {
      const values = name === "seed" ? garbage.slice(1) : garbage;
      return [`evaluate's ${name}`, values, (value) => evaluate(model, text, { [name]: value })];
    },
  ),
  ...["signal", "sampleDecoding"].map((name): [string, unknown[], (value: never) => unknown] => {
    return [`train's ${name}`, [5n, 1, true, { steps: 5n }], withOption(name)];
  }),
  ...["seed", "schedule", "rate", "corpus", "family", "shape", "flow", "thought", "changes", "run"].map(
    (name): [string, unknown[], (value: never) => unknown] => [`train's ${name}`, garbage, withOption(name)],
  ),
  ["a corpus file", [{ path: text, note: 5n }, { path: 5n }], (value) => withOption("corpus")([value])],
  ["a flow's size", garbage, inFlow],
  ["a fit's steps", garbage, (steps) => withOption("thought")({ inference: { steps } })],
  ...["precision", "family", "latents"].map((name): [string, unknown[], (value: never) => unknown] => {
    return [`load's ${name}`, garbage, (value) => engine.load(join(root, "models/tales-thought"), { [name]: value })];
  }),
  ["a text to encode", [undefined, null, ...garbage, 1], (value) => model.tokenizer!.encode(value)],
  ["ids to decode", [undefined, null, 5n, { length: 1e12 }, [5n]], (value) => model.tokenizer!.decode(value)],
  ["ids of a stream", [undefined, { length: 1e12 }], (value) => model.tokenizer!.decodeStream().push(value)],
];

for (const [name, values, call] of entrances) {
  test(`${name}: what cannot be is refused`, async (t) => {
    for (const [i, value] of values.entries()) {
      const error = await rejection<Error>((async () => call(value as never))());
      t.true(error instanceof NoemaError, `value ${i}: ${error.stack}`);
      t.not((error as NoemaError).code, "ERR_INTERNAL", `value ${i}`);
    }
  });
}

test("what is refused is named, and so is what is expected", async (t) => {
  const refused = async (call: Promise<unknown>, message: RegExp) =>
    t.regex((await rejection<Error>(call)).message, message);
  await refused(evaluate(model, undefined as never), /^files: expected the path of a text file.*, got undefined$/);
  await refused(evaluate({} as never, text), /^model: expected a loaded model, got an object$/);
  await refused(
    begin(engine, { ...options, seed: 1n } as unknown as TrainOptions),
    /seed is 1n, expected an integer 0/,
  );
  await refused(begin(engine, undefined), /^train options: expected an object, got undefined$/);
});
