/** Training through a full disk: waits for room and goes on, instead of throwing away what was computed. */

import { setTimeout } from "node:timers/promises";
import { NoemaError } from "../errors.js";
import type { Training, TrainingEvent } from "./train.js";

export interface Patience {
  /** Seconds between two attempts to save. */
  wait: number;
  /** Attempts in a row before the error is passed on. */
  attempts: number;
  onWait?: (error: NoemaError, attempt: number) => void;
  signal?: AbortSignal | undefined;
}

/** The training's events. When saving fails, the run stays in memory, and is iterated again after a while. */
export async function* persistently(training: Training, patience: Patience): AsyncGenerator<TrainingEvent> {
  for (let failures = 0; ; ) {
    try {
      for await (const event of training) {
        if (event.type === "save") failures = 0;
        yield event;
      }
      return;
    } catch (error) {
      failures++;
      const isKept = training.kept && error instanceof NoemaError;
      if (!isKept || failures >= patience.attempts || patience.signal?.aborted) throw error;
      patience.onWait?.(error, failures);
      // An abort ends the wait; the training then makes its last attempt to save.
      await setTimeout(patience.wait * 1000, undefined, patience.signal && { signal: patience.signal }).catch(() => {});
    }
  }
}
