/** Native work that a signal can end, and what work that ends early leaves behind: its error's `partial`. */

import { NoemaError } from "./errors.js";
import type { NativeCancellation } from "./native/addon.js";

/**
 * A native cancellation for as long as `work` runs, which the signal asks for. Work that it ends rejects with the signal's reason or, where
 * it leaves something, with an error of its own, which has that as its `partial` and the reason as its cause.
 */
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
    throw left === undefined ? signal.reason : endedBy(signal.reason, left);
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

/** What the promise gives, or the signal's reason as soon as there is one. Others may wait for the same promise: each gets an error of its own. */
export function orAborted<R>(promise: Promise<R>, signal: AbortSignal): Promise<R> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) return abort();
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, (error) => reject(anew(error))).finally(() => signal.removeEventListener("abort", abort));
  });
}

/**
 * The error of work that was ended and leaves `partial`. Never the reason itself: that is the caller's object, and one signal may end the
 * work of several requests. It says what the reason says; its code is that of a reason of noema's, else ERR_ABORTED.
 */
export function endedBy(reason: unknown, partial: unknown): unknown {
  const said = reason instanceof Error ? reason.message : reason;
  const message = typeof said === "string" && said !== "" ? said : "the caller's signal ended the work";
  const aborted = () => new NoemaError("ERR_ABORTED", message, {}, { cause: reason });
  return withPartial(reason instanceof NoemaError ? anew(reason) : aborted(), partial);
}

/** An error of noema's once more, for whoever else gets it. */
function anew(error: unknown): unknown {
  if (!(error instanceof NoemaError)) return error;
  return new NoemaError(error.code, error.message, error.details, { cause: error });
}

/** Hangs what was made so far on an error, which is this work's alone. */
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
