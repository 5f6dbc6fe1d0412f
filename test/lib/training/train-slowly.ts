/** Run by the training tests as a process of its own, to be killed: trains and says which step it is at. */

import type { TrainOptions } from "../../../lib/training/options.js";
import { train } from "../../../lib/training/train.js";
import { FakeEngine } from "./fake.js";

const options = JSON.parse(process.argv[2] ?? "") as TrainOptions;
for await (const event of train({ native: new FakeEngine() }, options)) {
  if (event.type === "step") process.stdout.write(`step ${event.step}\n`);
  await new Promise((resolve) => setTimeout(resolve, 10));
}
