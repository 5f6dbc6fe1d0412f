/** Ctrl-C as a signal: the first one asks the running work to end well, the second one ends the process as usual. */

import { NoemaError } from "../errors.js";

const SIGNALS = ["SIGINT", "SIGTERM"] as const;

/** Runs the work with a signal that aborts on SIGINT or SIGTERM. `meaning` is what the user is told then. */
export async function interruptible<T>(meaning: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const interrupt = () => {
    release();
    controller.abort(new NoemaError("ERR_ABORTED", meaning));
  };
  const release = () => {
    for (const name of SIGNALS) process.off(name, interrupt);
  };
  for (const name of SIGNALS) process.on(name, interrupt);
  try {
    return await work(controller.signal);
  } finally {
    release();
  }
}
