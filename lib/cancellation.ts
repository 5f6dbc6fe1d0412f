/** Native work that a signal can end. */

import type { NativeCancellation } from "./native/addon.js";

/** A native cancellation for as long as `work` runs, which the signal asks for. */
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
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}
