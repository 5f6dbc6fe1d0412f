/** Training a model on an engine. */

import { invalid } from "./decoding/options.js";
import { Engine } from "./engine.js";
import type { TrainOptions } from "./training/options.js";
import { type Training, train as trainOn } from "./training/train.js";

/**
 * Trains, or goes on training, in the folder `options.run`: an async iterable of what happens. Nothing happens until it is
 * iterated; what is wrong with the options comes out of that, too.
 *
 * - Leaving the loop early saves the state.
 * - When the signal aborts, the running step is finished and saved, then the iteration rejects with the signal's reason.
 * - ERR_NON_FINITE names the step; the state saved last is kept.
 * - ERR_IO while saving (a full disk, say) loses nothing: the state on disk is the one before, and the run is still in
 *   memory: iterate again, and it saves and goes on; or dispose of it.
 */
export function train(engine: Engine, options: TrainOptions): Training {
  if (!(engine instanceof Engine)) throw invalid("engine", engine, "what createEngine gives");
  return trainOn(engine, options);
}
