/** How early a text can be read: the states between noise and data against the text that they become. */

import { cancellable } from "../cancellation.js";
import { checkNumber } from "../decoding/options.js";
import type { NativeCancellation, State } from "../native/addon.js";
import { seedAt } from "../request.js";
import type { Seed } from "../rng.js";
import { type CanvasRequest, requestOf } from "./canvases.js";
import type { FlowHost } from "./job.js";
import {
  checkAncestral,
  checkFlowOptions,
  type FlowCanvas,
  type FlowGenerateOptions,
  flowCanvas,
  hasReading,
} from "./request.js";

/** How the texts are drawn: as by `generate`, whose options these are. Defaults: from nothing, with `documentStart` false. */
type Drawing = Pick<
  FlowGenerateOptions,
  "prompt" | "documentStart" | "temperature" | "ancestral" | "topK" | "topP" | "signal"
>;

export interface DraftOptions extends Drawing {
  /** Texts. Default: 8. */
  count?: number;
  /** Of each text, behind the prompt. Default: as many as the model has left. */
  positions?: number;
  /** Of the first text; the next has one more, and so on. Default: 0. */
  seed?: Seed;
}

/** What a level's reading is worth. */
export interface DraftMeasure {
  level: number;
  /** Share of the tokens that read as they do in the end; undefined of levels without a readout, and of noise that a text is not made of (`ancestral`). */
  agreement?: number;
  /** Mean probability that the reading gives its tokens. */
  confidence?: number;
  /** Milliseconds per text from noise to this state. */
  milliseconds: number;
}

const names = [
  ...["count", "positions", "seed", "signal"],
  ...["prompt", "documentStart", "temperature", "ancestral", "topK", "topP"],
];

export async function measureDrafts(host: FlowHost, options: DraftOptions = {}): Promise<DraftMeasure[]> {
  checkFlowOptions(options, names, "measureDrafts");
  const { count = 8, signal } = options;
  checkNumber(count, { min: 1, max: 1024, integer: true }, "count");
  const canvas = canvasOf(host, options);
  const canvases = Array.from({ length: count }, (_, i) => ({ ...canvas, seed: seedAt(options.seed, i) }));
  const request = requestOf(canvases, host.config, checkAncestral(options, host.config));
  return cancellable(host, signal, (cancellation) => measured(host, request, cancellation));
}

/** Every text's, but for its seed. */
function canvasOf({ config, tokenizer }: FlowHost, options: DraftOptions): FlowCanvas {
  const { positions, prompt = [], documentStart = false, temperature = 1, seed = 0 } = options;
  const { patchSize: P, maxPositions } = config;
  if (positions !== undefined) checkNumber(positions, { min: 1, max: maxPositions, integer: true }, "positions");
  const asked = { prompt, documentStart, temperature, seed };
  const canvas = flowCanvas({ ...asked, maxTokens: (positions ?? 1) * P }, config, tokenizer);
  return positions === undefined ? { ...canvas, added: maxPositions * P - canvas.prefix.length } : canvas;
}

async function measured(
  { native, config }: FlowHost,
  { noise, ancestral, ...request }: CanvasRequest,
  cancellation: NativeCancellation,
): Promise<DraftMeasure[]> {
  const measures: DraftMeasure[] = [];
  const readings: (Int32Array | undefined)[] = [];
  const top = config.flows.length;
  let latents: State = noise;
  let milliseconds = 0;
  for (let level = top; level >= 0; level--) {
    if (level < top) {
      const draw = level + 1 === top && ancestral ? { ancestral } : {};
      const started = performance.now();
      const found = await native.invert({ ...request, ...draw, latents, level: level + 1, to: level, cancellation });
      latents = found.state;
      milliseconds += (performance.now() - started) / request.batch;
    }
    const isRead = hasReading(level, config) && !(ancestral && level === top);
    const reading = isRead ? await native.read({ level, latents, cancellation }) : undefined;
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
