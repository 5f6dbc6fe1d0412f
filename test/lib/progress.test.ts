import { PassThrough } from "node:stream";
import test from "ava";
import { startProgress } from "../../lib/cli/progress.js";

function streams(isTTY: boolean) {
  const error = Object.assign(new PassThrough(), { isTTY, columns: 80, cursorTo: () => true, clearLine: () => true });
  const seen: string[] = [];
  error.on("data", (chunk) => seen.push(String(chunk)));
  return { out: new PassThrough(), error, seen };
}

async function show(isTTY: boolean, quiet: boolean): Promise<string> {
  const made = streams(isTTY);
  const progress = startProgress(made, { format: "{bar} {value}/{total} {loss}", total: 4, quiet });
  progress.update(0, { loss: "-" });
  progress.update(9, { loss: "1.5" });
  progress.stop();
  await new Promise((resolve) => setImmediate(resolve));
  return made.seen.join("");
}

test("a bar on a terminal, never past its total", async (t) => {
  const text = await show(true, false);
  t.regex(text, /4\/4 1\.5/);
});

test("nothing where no one looks: not a terminal, or --json", async (t) => {
  t.is(await show(false, false), "");
  t.is(await show(true, true), "");
});
