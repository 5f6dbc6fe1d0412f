/** How early a text can be read: the states between noise and data against the text that they become. */

import { cancellable } from "../cancellation.js";
import { checkNames, checkNumber, checkSignal } from "../decoding/options.js";
import type { NativeCancellation, State } from "../native/addon.js";
import { latentNoise } from "../normals.js";
import type { Seed } from "../rng.js";
import type { FlowHost } from "./job.js";
import { hasReading } from "./request.js";

export interface DraftOptions {
  /** Texts. Default: 8. */
  count?: number;
  /** Of each text. Default: as many as the model has. */
  positions?: number;
  /** Default: 0. */
  seed?: Seed;
  signal?: AbortSignal;
}

/** What a level's reading is worth. */
export interface DraftMeasure {
  level: number;
  /** Share of the tokens that read as they do in the end; of levels without a readout undefined. */
  agreement?: number;
  /** Mean probability that the reading gives its tokens. */
  confidence?: number;
  /** Milliseconds per text from noise to this state. */
  milliseconds: number;
}

interface Checked {
  count: number;
  positions: number;
  seed: Seed;
}

export async function measureDrafts(host: FlowHost, options: DraftOptions = {}): Promise<DraftMeasure[]> {
  checkNames(options, ["count", "positions", "seed", "signal"], "measureDrafts");
  const { count = 8, positions = host.config.maxPositions, seed = 0, signal } = options;
  checkNumber(count, { min: 1, max: 1024, integer: true }, "count");
  checkNumber(positions, { min: 1, max: host.config.maxPositions, integer: true }, "positions");
  checkSignal(signal);
  const checked = { count, positions, seed };
  return cancellable(host, signal, (cancellation) => measured(host, checked, cancellation));
}

async function measured(
  { native, config }: FlowHost,
  { count, positions, seed }: Checked,
  cancellation: NativeCancellation,
): Promise<DraftMeasure[]> {
  const length = positions * config.patchSize;
  const request = { ids: new Int32Array(count * length), batch: count, length, cancellation };
  const measures: DraftMeasure[] = [];
  const readings: (Int32Array | undefined)[] = [];
  let latents: State = latentNoise(seed, count * length * config.latentSize);
  let milliseconds = 0;
  for (let level = config.flows.length; level >= 0; level--) {
    if (level < config.flows.length) {
      const started = performance.now();
      latents = (await native.invert({ ...request, latents, level: level + 1, to: level })).state;
      milliseconds += (performance.now() - started) / count;
    }
    const reading = hasReading(level, config) ? await native.read({ level, latents, cancellation }) : undefined;
    readings.push(reading?.tokens);
    const confidence = reading && reading.confidence.reduce((sum, x) => sum + x, 0) / reading.confidence.length;
    measures.push({ level, milliseconds, ...(confidence !== undefined && { confidence }) });
  }
  const text = readings.at(-1)!;
  return measures.map((measure, i) => {
    const draft = readings[i];
    if (!draft) return measure;
    const same = draft.reduce((sum, token, t) => sum + (token === text[t] ? 1 : 0), 0);
    return { ...measure, agreement: same / text.length };
  });
}
