/** The command line in this process, with what it wrote. */

import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";
import { run } from "../../lib/cli/program.js";

export async function noema(...args: string[]): Promise<{ code: number; out: string; error: string }> {
  const streams = { out: new PassThrough(), error: new PassThrough() };
  const texts = Promise.all([text(streams.out), text(streams.error)]);
  const code = await run(args, streams);
  streams.out.end();
  streams.error.end();
  const [out, error] = await texts;
  return { code, out, error };
}
