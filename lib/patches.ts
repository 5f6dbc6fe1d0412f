/** Tokens in patches: positions of `patchSize` tokens each, the gaps filled with ends of text. */

import { NoemaError } from "./errors.js";

interface Patches {
  patchSize: number;
  eosTokenId?: number | undefined;
}

/**
 * Filled in front: what comes before a text that goes on. `what` it is says the error of a model that has nothing to
 * fill with.
 */
export function filledBefore(ids: ArrayLike<number>, patches: Patches, what: string): number[] {
  return [...filling(ids, patches, what), ...Array.from(ids)];
}

/** Filled at the end. */
export function filledAfter(ids: ArrayLike<number>, patches: Patches, what: string): Int32Array {
  return Int32Array.from([...Array.from(ids), ...filling(ids, patches, what)]);
}

/**
 * What is missing to a whole number of patches. Any other token than the end of a text would be a text that nobody
 * wrote.
 */
function filling({ length: tokens }: ArrayLike<number>, { patchSize, eosTokenId }: Patches, what: string): number[] {
  const gap = (patchSize - (tokens % patchSize)) % patchSize;
  if (gap === 0) return [];
  if (eosTokenId !== undefined) return new Array<number>(gap).fill(eosTokenId);
  const why = "the model has no end-of-text token to fill patches with";
  const message = `${what} has ${tokens} tokens, expected a multiple of P = ${patchSize}: ${why}`;
  throw new NoemaError("ERR_INVALID_ARGUMENT", message, { tokens, patchSize });
}
