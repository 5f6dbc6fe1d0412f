/**
 * Counter-based random numbers (Philox4x32-10): a pure function of (seed, stream, step, row, lane), the same bits as
 * `native/include/noema/rng.h`, so a policy draws the same whichever side it runs on. Nothing here has state.
 */

import { NoemaError } from "./errors.js";
import { describe } from "./json.js";

/** What a stream of draws is for. Two purposes never share numbers. */
export const RngStream = {
  token: 0,
  order: 1,
  time: 2,
  corruption: 3,
  init: 4,
  shuffle: 5,
  remask: 6,
  latent: 7,
  thought: 8,
} as const;
export type RngStream = (typeof RngStream)[keyof typeof RngStream];

/** 0 .. 2^64 - 1. A number must be a safe integer: above 2^53 a literal would be rounded before it arrives here. */
export type Seed = bigint | number;

const TWO_32 = 4294967296;

/** The seed's low and high 32 bits; ERR_INVALID_ARGUMENT when it is no 64-bit unsigned integer. */
export function seedWords(seed: Seed): [low: number, high: number] {
  if (typeof seed === "bigint" && seed >= 0n && seed < 1n << 64n) {
    return [Number(seed & 0xffffffffn), Number(seed >> 32n)];
  }
  if (typeof seed === "number" && Number.isSafeInteger(seed) && seed >= 0) {
    return [seed >>> 0, Math.floor(seed / TWO_32)];
  }
  throw new NoemaError(
    "ERR_INVALID_ARGUMENT",
    `seed ${describe(seed)}: expected an integer 0 .. 2^53 - 1, or a bigint 0n .. 2n ** 64n - 1n`,
    { seed },
  );
}

/** Writes the four 32-bit draws of lanes 4*block .. 4*block+3 to out[at .. at+3]. `k0`, `k1` are the seed's words. */
function philox(out: Uint32Array, at: number, k0: number, k1: number, counter: Counter): void {
  let { block: c0, row: c1, step: c2, stream: c3 } = counter;
  for (let round = 0; round < 10; round++) {
    // High words of 0xD2511F53 * c0 and 0xCD9E8D57 * c2 from 16-bit halves. Every sum below stays under 2^32, so `>>> 0`
    // recovers it from the signed result of imul.
    const c0Low = c0 & 0xffff;
    const c0High = c0 >>> 16;
    const a = (Math.imul(0xd251, c0Low) + (Math.imul(0x1f53, c0Low) >>> 16)) >>> 0;
    const b = (Math.imul(0x1f53, c0High) + (a & 0xffff)) >>> 0;
    const high0 = Math.imul(0xd251, c0High) + (a >>> 16) + (b >>> 16);
    const c2Low = c2 & 0xffff;
    const c2High = c2 >>> 16;
    const c = (Math.imul(0xcd9e, c2Low) + (Math.imul(0x8d57, c2Low) >>> 16)) >>> 0;
    const d = (Math.imul(0x8d57, c2High) + (c & 0xffff)) >>> 0;
    const high1 = Math.imul(0xcd9e, c2High) + (c >>> 16) + (d >>> 16);
    const low0 = Math.imul(0xd2511f53, c0);
    c0 = high1 ^ c1 ^ k0;
    c1 = Math.imul(0xcd9e8d57, c2);
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  out[at] = c0;
  out[at + 1] = c1;
  out[at + 2] = c2;
  out[at + 3] = c3;
}

interface Counter {
  block: number;
  row: number;
  step: number;
  stream: number;
}

/** 32 random bits as a number in (0, 1): 23 bits, centred in their cells, so neither 0 nor 1 occurs. Exact in f32. */
export function toUniform(bits: number): number {
  return ((bits >>> 9) + 0.5) / 8388608;
}

/** Where a draw stands. Every field is an unsigned 32-bit integer. */
export interface RngPlace {
  stream: RngStream;
  step?: number;
  row?: number;
}

/** One seed's draws. Holds only the split seed: two of the same seed are interchangeable. */
export class Rng {
  readonly #k0: number;
  readonly #k1: number;
  readonly #words = new Uint32Array(4);

  constructor(seed: Seed) {
    [this.#k0, this.#k1] = seedWords(seed);
  }

  /** The draws of lanes 4*block .. 4*block+3. The array is reused by the next call. */
  block(stream: RngStream, step: number, row: number, block: number): Uint32Array {
    philox(this.#words, 0, this.#k0, this.#k1, { block, row, step, stream });
    return this.#words;
  }

  /** A number in (0, 1). */
  uniform(stream: RngStream, step: number, row: number, lane: number): number {
    return toUniform(this.block(stream, step, row, lane >>> 2)[lane & 3]!);
  }

  /** Fills the array with the 32-bit draws of lanes 0, 1, 2, ... */
  fill(out: Uint32Array, { stream, step = 0, row = 0 }: RngPlace): void {
    const whole = out.length & ~3;
    const counter = { block: 0, row, step, stream };
    for (let lane = 0; lane < whole; lane += 4, counter.block++) philox(out, lane, this.#k0, this.#k1, counter);
    if (whole < out.length) out.set(this.block(stream, step, row, whole >>> 2).subarray(0, out.length - whole), whole);
  }
}

/** Four 32-bit draws, for lanes 4*block .. 4*block+3. */
export function rngBlock(seed: Seed, stream: RngStream, step: number, row: number, block: number): Uint32Array {
  return new Rng(seed).block(stream, step, row, block);
}

/** The draw of one lane as a number in (0, 1). */
export function rngUniform(seed: Seed, stream: RngStream, step: number, row: number, lane: number): number {
  return new Rng(seed).uniform(stream, step, row, lane);
}
