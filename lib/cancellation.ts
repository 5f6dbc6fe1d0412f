/** Native work that a signal can end, and what work that ends early leaves behind: its error's `partial`. */

import type { NativeCancellation } from "./native/addon.js";

/** A native cancellation for as long as `work` runs, which the signal asks for. What the work leaves goes on to the signal's reason. */
export async function cancellable<R>(
  host: { createCancellation(): NativeCancellation },
  signal: AbortSignal | undefined,
  work: (cancellation: NativeCancellation) => Promise<R>,
): Promise<R> {
  signal?.throwIfAborted();
  const cancellation = host.createCancellation();
  const cancel = () => cancellation.cancel();
  signal?.addEventListener("abort", cancel, { once: true });
  try {
    return await work(cancellation);
  } catch (error) {
    if (!signal?.aborted) throw error;
    const left = partialOf(error);
    throw left === undefined ? signal.reason : withPartial(signal.reason, left);
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

/** What the promise gives, or the signal's reason as soon as there is one. */
export function orAborted<R>(promise: Promise<R>, signal: AbortSignal): Promise<R> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) return abort();
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

/** Hangs what was made so far on the error. Reasons that cannot carry it (strings) go without. */
export function withPartial(error: unknown, partial: unknown): unknown {
  if (typeof error === "object" && error !== null && Object.isExtensible(error)) {
    Object.defineProperty(error, "partial", { value: partial, enumerable: false, configurable: true, writable: true });
  }
  return error;
}

/** The error, with what it carries turned into what its next reader knows. */
export function mapPartial<A>(error: unknown, change: (partial: A) => unknown): unknown {
  const left = partialOf(error);
  return left === undefined ? error : withPartial(error, change(left as A));
}

function partialOf(error: unknown): unknown {
  return (Object(error) as { partial?: unknown }).partial;
}
