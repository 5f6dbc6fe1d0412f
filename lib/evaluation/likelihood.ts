/** Exact negative log-likelihoods of windows under an autoregressive model: the chain rule, every token given those before it. */

import type { Batch, LossRequest } from "../native/addon.js";
import { type BoundOptions, checkBound, sum, type Window, type WindowBound } from "./bound.js";

/** What the chain rule needs of a model: a native model's losses, or a trainer's. */
export interface ChainScorer {
  losses(request: LossRequest): Promise<Float32Array>;
  bosId: number;
}

/**
 * What predicts the tokens of windows of one length: the begin token, then every token but the last. T positions predict T
 * tokens, the first included, as the flow's start vector does.
 */
export function nextTokens(
  windows: Int32Array,
  length: number,
  bosId: number,
): Batch & Pick<LossRequest, "targets" | "excludedId"> {
  const ids = new Int32Array(windows.length);
  ids.set(windows.subarray(0, -1), 1);
  for (let start = 0; start < ids.length; start += length) ids[start] = bosId;
  return { ids, targets: windows, batch: windows.length / length, length, excludedId: -1 };
}

/** Yields every window's nats, in order. Windows may have different lengths; of a context, no token is scored. */
export async function* windowLikelihoods(
  scorer: ChainScorer,
  windows: Iterable<Window> | AsyncIterable<Window>,
  options: Pick<BoundOptions, "callTokens" | "signal"> = {},
): AsyncGenerator<WindowBound> {
  const { callTokens, signal } = checkBound(options);
  const waiting: Window[] = [];
  const flush = async function* (): AsyncGenerator<WindowBound> {
    signal?.throwIfAborted();
    yield* await likelihoods(scorer, waiting.splice(0));
  };
  for await (const window of windows) {
    const length = Math.max(window.ids.length, ...waiting.map(({ ids }) => ids.length));
    if (waiting.length > 0 && length * (waiting.length + 1) > callTokens) yield* flush();
    waiting.push(window);
  }
  if (waiting.length > 0) yield* flush();
}

/** One native call. What a shorter window is filled up with comes after it, where no token of it looks. */
async function likelihoods({ losses, bosId }: ChainScorer, windows: readonly Window[]): Promise<WindowBound[]> {
  const length = Math.max(...windows.map(({ ids }) => ids.length));
  const ids = new Int32Array(windows.length * length).fill(bosId);
  for (const [i, window] of windows.entries()) ids.set(window.ids, i * length);
  const request = nextTokens(ids, length, bosId);
  const targets = request.targets.map((id, row) => {
    const { ids: own, context = 0 } = windows[Math.floor(row / length)]!;
    return row % length >= context && row % length < own.length ? id : -1;
  });
  const nats = await losses({ ...request, targets });
  return windows.map(({ index, ids: own, context = 0 }, i) => {
    return { index, tokens: own.length - context, nats: sum(nats.subarray(i * length, (i + 1) * length)), variance: 0 };
  });
}
