/** A network of eleven words whose logits depend on the position and on everything that is not masked. */

import { Decoder, type DecodeTask } from "../../lib/decoding/decoder.js";
import type { DecodingOptions } from "../../lib/decoding/resolve.js";
import { resolveDecoding } from "../../lib/decoding/resolve.js";
import type { LogitsSessionOptions } from "../../lib/verification/logits-session.js";
import { LogitsSession } from "../../lib/verification/logits-session.js";

export const toy = { vocabulary: 12, maskId: 11, eosId: 10 } as const;

/** Smooth and far from ties; `eosFrom`: from this position on, end-of-text is the likeliest. */
export function toyLogits(eosFrom = Number.POSITIVE_INFINITY) {
  return (ids: Int32Array): Float64Array[] => {
    let context = 0;
    ids.forEach((id, at) => {
      if (id !== toy.maskId) context += Math.sin(id * 1.7 + at * 0.31);
    });
    return Array.from(ids, (_, at) =>
      Float64Array.from({ length: toy.vocabulary }, (_, v) => {
        if (v === toy.eosId) return at >= eosFrom ? 9 : -9;
        return 2.5 * Math.sin(v * 2.1 + at * 1.3 + context * (1 + (at % 3)));
      }),
    );
  };
}

export function canvas(prompt: readonly number[], holes: number): Int32Array {
  return Int32Array.from([...prompt, ...new Array<number>(holes).fill(toy.maskId)]);
}

export interface ToyRun {
  decoding: string | DecodingOptions;
  prompts?: readonly number[][];
  holes?: number;
  seed?: bigint;
  seeds?: readonly bigint[];
  eosFrom?: number;
  task?: Partial<DecodeTask>;
  session?: Partial<LogitsSessionOptions>;
}

/** Decodes with a rule on the toy network. */
export async function runToy(run: ToyRun) {
  const { prompts = [[1, 2, 3]], holes = 13, seed = 7n } = run;
  const canvases = prompts.map((prompt) => canvas(prompt, holes));
  const seeds = run.seeds ?? canvases.map(() => seed);
  const session = new LogitsSession({
    batch: canvases.length,
    length: canvases[0]!.length,
    ids: Int32Array.from(canvases.flatMap((ids) => [...ids])),
    seeds: BigUint64Array.from(seeds),
    logits: toyLogits(run.eosFrom),
    maskId: toy.maskId,
    ...run.session,
  });
  const decoder = new Decoder({
    session,
    settings: resolveDecoding(run.decoding),
    maskId: toy.maskId,
    eosId: toy.eosId,
    starts: canvases.map((ids, i) => ({ ids, seed: seeds[i]!, eosFrom: prompts[i]!.length })),
    ...run.task,
  });
  await decoder.run();
  return { decoder, session, ids: decoder.sequences.map((sequence) => [...sequence.ids]) };
}
