// npm run demo: makes the checkout ready, then writes a text with the model that comes with it, shown while it unfolds.
//
//   npm run demo -- --prompt "The dragon" --max-tokens 96 --decoding low-confidence      any option of `noema generate`

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const model = join(root, "models", "tales-masked");
const given = process.argv.slice(2);

/** Runs a script of the checkout with the terminal; ends this process when it fails. */
function run(script, ...parameters) {
  const { status } = spawnSync(process.execPath, [join(root, script), ...parameters], { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}

run("scripts/setup.mjs", "--no-cuda");
if (existsSync(join(model, "config.json"))) {
  const names = ["--prompt", "--infill"];
  const prompt = given.some((word) => names.includes(word.split("=")[0])) ? [] : ["--prompt", "Once upon a time"];
  // Where the model was trained to begin: after the token that separates stories. Some warmth, or it repeats itself.
  const settings = { "--max-tokens": "112", "--temperature": "0.7", "--seed": "1" };
  const unset = Object.entries(settings).filter(([name]) => !given.some((word) => word.startsWith(name)));
  const defaults = ["--document-start", ...unset.flat()];
  run("dist/cli/main.js", "generate", model, ...prompt, ...defaults, ...given);
} else {
  process.stderr.write(
    "demo: models/tales-masked holds no checkpoint, so there is no text to show; what this machine offers:\n",
  );
  run("dist/cli/main.js", "doctor");
}
