// npm run demo: makes the checkout ready, then writes a text with each of the models that come with it, shown while it unfolds.
//
//   npm run demo -- --prompt "The dragon" --max-tokens 96     options of `noema generate`, for all of them
//   npm run demo -- --decoding low-confidence                 what only masked models know: the masked one alone

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const given = process.argv.slice(2);

/** Runs a script of the checkout with the terminal; ends this process when it fails. */
function run(script, ...parameters) {
  const { status } = spawnSync(process.execPath, [join(root, script), ...parameters], { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}

run("scripts/setup.mjs", "--no-cuda");
const optionOf = (word) => word.split("=")[0];

/** A flow's states: on a terminal they are shown one after the other, elsewhere each is a line. */
const states = ["--refine"];

/** Some warmth, or they repeat themselves. */
const models = [
  {
    name: "tales-masked",
    shown: "masked diffusion: blanks are filled in, the surest first",
    own: { "--temperature": "0.7" },
  },
  {
    name: "tales-flow",
    shown: "a flow: a state is drawn that reads nearly as the text, then the text is made of it",
    own: { "--temperature": "0.9", "--top-p": "0.9" },
    flags: states,
  },
  {
    name: "tales-letters",
    shown: "a flow of letters: from noise to a draft to a text",
    own: { "--temperature": "0.9" },
    flags: states,
    // Its mixture has no weight for each token that could be cut.
    refused: ["--top-k", "--top-p"],
  },
  {
    name: "tales-thought",
    shown: "a latent thought model: a thought of the prompt is fitted, then written from left to right",
    own: { "--temperature": "0.8", "--top-p": "0.95" },
  },
].filter(({ name }) => existsSync(join(root, "models", name, "config.json")));

/** Options that every family takes, and those of them with a value. */
const withValue = ["--prompt", "--max-tokens", "--temperature", "--top-k", "--top-p", "--seed", "--threads"];
const isShared = given.every(
  (word, i) => [...withValue, "--document-start"].includes(optionOf(word)) || withValue.includes(given[i - 1]),
);

const takesAll = ({ refused = [] }) => !given.some((word) => refused.includes(optionOf(word)));

for (const { name, shown, own, flags = [] } of isShared ? models.filter(takesAll) : models.slice(0, 1)) {
  process.stderr.write(`\ndemo: models/${name}, ${shown}\n\n`);
  const names = ["--prompt", "--infill"];
  const prompt = given.some((word) => names.includes(optionOf(word))) ? [] : ["--prompt", "Once upon a time"];
  const settings = { "--max-tokens": "112", "--seed": "1", ...own };
  const unset = Object.entries(settings).filter(([option]) => !given.some((word) => word.startsWith(option)));
  // Where the models were trained to begin: after the token that separates stories.
  const defaults = ["--document-start", ...flags, ...unset.flat()];
  run("dist/cli/main.js", "generate", join(root, "models", name), ...prompt, ...defaults, ...given);
}
if (models.length === 0) {
  process.stderr.write("demo: models/ holds no checkpoint, so there is no text to show; what this machine offers:\n");
  run("dist/cli/main.js", "doctor");
}
