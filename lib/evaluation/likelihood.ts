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
  for await (const some of inCalls(windows, callTokens)) {
    signal?.throwIfAborted();
    yield* await likelihoods(scorer, some);
  }
}

/** Windows in groups that fill a native call of so many tokens, each window as long as the longest of its group. */
export async function* inCalls(
  windows: Iterable<Window> | AsyncIterable<Window>,
  callTokens: number,
): AsyncGenerator<Window[]> {
  let group: Window[] = [];
  for await (const window of windows) {
    const length = Math.max(window.ids.length, ...group.map(({ ids }) => ids.length));
    if (group.length > 0 && length * (group.length + 1) > callTokens) {
      yield group;
      group = [];
    }
    group.push(window);
  }
  if (group.length > 0) yield group;
}

async function likelihoods({ losses, bosId }: ChainScorer, windows: readonly Window[]): Promise<WindowBound[]> {
  const { length, ...request } = textBatch(windows, bosId);
  const nats = await losses({ ...request, length, excludedId: -1 });
  return windows.map(({ index, ids, context = 0 }, i) => {
    const own = nats.subarray(i * length, (i + 1) * length);
    return { index, tokens: ids.length - context, nats: sum(own), variance: 0 };
  });
}

/**
 * What predicts the tokens of texts, each with the begin token in front, filled up to the longest where no token of them looks. Scored are
 * those after the context.
 */
export function textBatch(
  texts: readonly { readonly ids: ArrayLike<number>; readonly context?: number }[],
  bosId: number,
): Batch & { targets: Int32Array } {
  const length = Math.max(...texts.map(({ ids }) => ids.length));
  const all = new Int32Array(texts.length * length).fill(bosId);
  for (const [b, { ids }] of texts.entries()) all.set(ids, b * length);
  const { ids, targets } = nextTokens(all, length, bosId);
  for (const [b, { ids: own, context = 0 }] of texts.entries()) {
    targets.fill(-1, b * length, b * length + context);
    targets.fill(-1, b * length + own.length, (b + 1) * length);
  }
  return { ids, targets, batch: texts.length, length };
}
