/** README's first example, as somebody pastes it into a file. */

import { execFile } from "node:child_process";
import { promisify } from "node:util";
import test from "ava";
import { read, root } from "./support/files.js";

test("README's first example runs as it stands", async (t) => {
  const [, example = ""] = /^```ts\n(.*?)^```$/ms.exec(read("README.md")) ?? [];
  t.regex(example, /import \{ createEngine \} from "noema"/);
  // Here the package's own name leads to dist/, which is built before the tests.
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", example], {
    cwd: root,
  });
  t.regex(stdout, /\w+ \w+/);
});
