/** How long work holds the event loop. */

/** The longest time, in milliseconds, that a timer had to wait while `work` ran, and what came of the work. */
export async function longestHold<R>(work: () => PromiseLike<R>): Promise<{ result: R; milliseconds: number }> {
  let last = performance.now();
  let milliseconds = 0;
  const note = (): void => {
    const now = performance.now();
    milliseconds = Math.max(milliseconds, now - last);
    last = now;
  };
  const timer = setInterval(note, 1);
  try {
    const result = await work();
    note();
    return { result, milliseconds };
  } finally {
    clearInterval(timer);
  }
}
