/** A new folder that is removed when the test process ends. */

import { rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const made: string[] = [];
process.on("exit", () => {
  for (const folder of made) rmSync(folder, { recursive: true, force: true });
});

export async function scratch(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "noema-training-"));
  made.push(folder);
  return folder;
}
