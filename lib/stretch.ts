/** Long work in short stretches, so that the process serves its requests in between. */

import { setImmediate } from "node:timers/promises";

/** Milliseconds that a stretch may hold the event loop. */
const LONGEST = 4;

export class Stretch {
  #began = performance.now();

  /** Between two parts of the work: lets the event loop turn when the stretch has lasted long enough, and says whether it did. */
  async rest(): Promise<boolean> {
    if (performance.now() - this.#began < LONGEST) return false;
    await setImmediate();
    this.#began = performance.now();
    return true;
  }
}
