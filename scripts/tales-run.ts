// What the runs of models/tales-* share: where the text is, when a run stops, how it is annealed.
import { existsSync } from "node:fs";
import { cp, readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Engine, NoemaError, type TrainOptions, train } from "../lib/index.js";

/** The flags of such a script; `name` is the model's. */
export function talesFlags(name: string, steps: number) {
  const { values } = parseArgs({
    options: {
      data: { type: "string" },
      run: { type: "string", default: `runs/${name}` },
      init: { type: "string" },
      steps: { type: "string", default: String(steps) },
      minutes: { type: "string", default: "0" },
      anneal: { type: "string", default: "0" },
      threads: { type: "string", default: "0" },
      publish: { type: "boolean", default: false },
      baseline: { type: "boolean", default: false },
      folder: { type: "string", default: `models/${name}` },
      draws: { type: "string", default: "8" },
    },
  });
  const { data } = values;
  if (!data) throw new Error("--data FOLDER: where the text files are");
  return { ...values, data };
}

export type TalesFlags = ReturnType<typeof talesFlags>;

/** TinyStories is four fifths of what is seen: the model is to tell stories, not to write like 1890. */
export function talesText(data: string): Pick<TrainOptions, "corpus" | "heldOut" | "tokenizer"> {
  const file = (name: string) => join(data, name);
  return {
    corpus: [
      { path: file("tinystories.train.txt"), weight: 2 },
      { path: file("storybooks.txt"), weight: 1 },
      { path: file("gutenberg-children.txt"), weight: 0.25 },
    ],
    heldOut: [file("tinystories.valid.txt")],
    tokenizer: "models/tales-masked/tokenizer.json",
  };
}

class TimeIsUp extends NoemaError {}

/** Ends at the last step, at the time limit or at Ctrl-C; in each case everything is saved. Whether it was not cut short by Ctrl-C. */
export async function runTales(engine: Engine, options: TrainOptions, minutes: number): Promise<boolean> {
  const controller = new AbortController();
  const stop = (why: string) => controller.abort(new TimeIsUp("ERR_ABORTED", why));
  let interrupted = false;
  const interrupt = () => {
    interrupted = true;
    stop("interrupted");
  };
  process.once("SIGINT", interrupt);
  process.once("SIGTERM", interrupt);
  const timer = minutes > 0 ? setTimeout(() => stop(`${minutes} minutes are over`), minutes * 60_000) : undefined;
  try {
    for await (const event of train(engine, { ...options, signal: controller.signal })) {
      if (event.type === "step" && event.step % 10 !== 0) continue;
      console.log(JSON.stringify(event));
    }
  } catch (error) {
    if (!(error instanceof TimeIsUp)) throw error;
    console.log(`${error.message}; the state is saved`);
  } finally {
    clearTimeout(timer);
  }
  return !interrupted;
}

/** The branch of a run that falls to the floor within `steps`. Made by copying the run as it stands, or found half done. */
export async function annealed(options: TrainOptions, steps: number): Promise<TrainOptions> {
  const branch = `${options.run}-anneal`;
  if (!existsSync(branch)) await cp(options.run, branch, { recursive: true });
  const { step } = JSON.parse(await readFile(join(options.run, "state", "state.json"), "utf8"));
  // A shorter average: half of a slow one would be weights from before the fall.
  const changes = [...(options.changes ?? []), "steps", "ema"];
  return { ...options, run: branch, steps: step + steps, ema: 0.995, changes };
}
