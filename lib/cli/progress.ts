/** A progress bar on stderr: only for people, so silent when stderr is no terminal and with --json. */

import { SingleBar } from "cli-progress";
import type { Streams } from "./command.js";

export interface Progress {
  /** Values fill the format's {names}. */
  update(done: number, values?: Record<string, string | number>): void;
  stop(): void;
}

const silent: Progress = { update: () => undefined, stop: () => undefined };

export interface ProgressOptions {
  /** As in cli-progress: "{bar} {percentage}% {loss}". */
  format: string;
  total: number;
  quiet: boolean | undefined;
  start?: number;
}

export function startProgress({ error }: Streams, { format, total, quiet, start = 0 }: ProgressOptions): Progress {
  if (quiet || !(error as NodeJS.WriteStream).isTTY) return silent;
  const bar = new SingleBar({ format, stream: error, hideCursor: true, etaBuffer: 50, barsize: 24 });
  bar.start(total, start);
  return {
    update: (done, values = {}) => bar.update(Math.min(done, total), values),
    stop: () => bar.stop(),
  };
}
