/** Drafts: texts that thoughts guide, what they cost, and thinking again about them. */

import { mapPartial } from "../cancellation.js";
import { textBatch } from "../evaluation/likelihood.js";
import { sequenceSeed } from "../evaluation/thought-bound.js";
import type { ContinueResult, NativeCancellation, NativeFit } from "../native/addon.js";
import type { ThoughtCore } from "../posterior/core.js";
import { fitAll, fromPrior } from "../posterior/infer.js";
import type { Thought } from "../posterior/thought.js";
import { Rng } from "../rng.js";

/** A text on its way: the prompt's, what was written after it, by which thought. */
export interface Draft {
  readonly prompt: readonly number[];
  readonly seed: bigint;
  /** None: it is still to be fitted. */
  thought: Thought | undefined;
  /** New tokens, the end-of-text token that ended them included. */
  tokens: number[];
  /** Nats per token of prompt and text: the bound with fresh draws. Unknown where nothing is compared. */
  bound: number;
  /** Forward passes that looked at it so far, in fits, in writing and in judging. */
  passes: number;
}

/** How texts are written, whatever their prompts. */
export interface Manner {
  fit: NativeFit;
  /** Guides all texts, instead of thoughts that are fitted to their prompts. */
  thought: Thought | undefined;
  /** Of the draw from the prior that guides a text without a prompt. */
  priorScale: number;
  /** New tokens after which a thought is fitted anew; 0: never. */
  refitEvery: number;
  draw: { temperature: number; topK: number; topP: number };
}

export interface Writing {
  wanted: number;
  manner: Manner;
  cancellation?: NativeCancellation | undefined;
  /** Is told new tokens as they come. */
  onTokens?: ((at: number, tokens: readonly number[]) => void) | undefined;
}

/** Fresh draws of a draft's bound. */
const BOUND_DRAWS = 8;
/** Places among a draft's random numbers: no two purposes share them. */
const FIT = 0;
const BOUND = 1;
const WRITE = 2;

/** Of the draft's own numbers, for a purpose of a round. */
function seedOf({ seed }: Pick<Draft, "seed">, round: number, purpose: number): bigint {
  return sequenceSeed(new Rng(seed), round, purpose);
}

/** Drafts without text yet; their thoughts are given, drawn from the prior where there is nothing to fit, or still to be fitted. */
export function blank(
  host: ThoughtCore,
  starts: readonly Pick<Draft, "prompt" | "seed">[],
  { thought: given, priorScale }: Manner,
): Draft[] {
  const drawn = (start: Pick<Draft, "prompt" | "seed">) =>
    start.prompt.length > 0 ? undefined : fromPrior(host, seedOf(start, 0, FIT), priorScale);
  return starts.map((start) => {
    return { ...start, thought: given ?? drawn(start), tokens: [], bound: Number.POSITIVE_INFINITY, passes: 0 };
  });
}

/** Fits the thoughts that are still to be fitted, to their prompts. */
export async function fitPrompts(
  host: ThoughtCore,
  drafts: readonly Draft[],
  { manner, cancellation }: Writing,
): Promise<void> {
  const some = drafts.filter(({ thought }) => !thought);
  if (some.length > 0) await rethink(host, some, { settings: manner.fit, cancellation, round: 0 });
}

/** Drafts that are ready to be written. */
export async function begin(
  host: ThoughtCore,
  starts: readonly Pick<Draft, "prompt" | "seed">[],
  writing: Writing,
): Promise<Draft[]> {
  const drafts = blank(host, starts, writing.manner);
  await fitPrompts(host, drafts, writing);
  return drafts;
}

/** Writes the texts of all drafts from their prompts on; with `refitEvery`, thoughts follow what is written. */
export async function write(host: ThoughtCore, drafts: readonly Draft[], writing: Writing, round = 0): Promise<void> {
  const { wanted, manner, cancellation } = writing;
  for (const draft of drafts) draft.tokens = [];
  const { eosTokenId = -1 } = host.config;
  const open = () => [...drafts.keys()].filter((at) => drafts[at]!.tokens.at(-1) !== eosTokenId);
  const chunk = manner.refitEvery || wanted;
  for (let done = 0; done < wanted; done += chunk) {
    const places = open();
    if (places.length === 0) return;
    const some = places.map((at) => drafts[at]!);
    if (done > 0) await rethink(host, some, { settings: manner.fit, cancellation, round: round * wanted + done });
    await continueAll(host, some, { ...writing, wanted: Math.min(chunk, wanted - done), places, round });
  }
}

interface Continuing extends Writing {
  /** Where the drafts stand among all. */
  places: readonly number[];
  round: number;
}

async function continueAll(host: ThoughtCore, drafts: readonly Draft[], continuing: Continuing): Promise<void> {
  const { wanted, manner, cancellation, onTokens, places, round } = continuing;
  const { native, config, sizes } = host;
  const texts = drafts.map(({ prompt, tokens }) => [config.bosTokenId, ...prompt, ...tokens]);
  const length = Math.max(...texts.map((text) => text.length));
  const ids = new Int32Array(texts.length * length).fill(config.bosTokenId);
  const z = new Float32Array(texts.length * sizes.latents * sizes.width);
  for (const [b, text] of texts.entries()) {
    ids.set(text, b * length);
    z.set(drafts[b]!.thought!.z, b * sizes.latents * sizes.width);
  }
  // A token's draw is a function of its position, so the same seed serves every chunk.
  const seeds = BigUint64Array.from(drafts, (draft) => seedOf(draft, round, WRITE));
  const request = {
    ...{ ids, batch: texts.length, length, lengths: Int32Array.from(texts, (text) => text.length) },
    ...{ z, tokens: wanted, seeds, ...manner.draw, endId: config.eosTokenId ?? -1 },
    ...(cancellation && { cancellation }),
    ...(onTokens && { onTokens: (fresh: Int32Array) => tell(fresh, places, onTokens) }),
  };
  const keep = (made: ContinueResult) => {
    for (const [b, own] of made.tokens.entries()) {
      for (const token of own) drafts[b]!.tokens.push(token);
      drafts[b]!.passes += own.length;
    }
  };
  try {
    keep(await native.continue(request));
  } catch (error) {
    throw mapPartial(error, keep);
  }
}

/** [steps,B] tokens, -1 of texts that had ended. */
function tell(fresh: Int32Array, places: readonly number[], onTokens: NonNullable<Writing["onTokens"]>): void {
  for (const [b, at] of places.entries()) {
    const own = Array.from(fresh).filter((token, i) => i % places.length === b && token >= 0);
    if (own.length > 0) onTokens(at, own);
  }
}

interface Rethinking {
  settings: Manner["fit"];
  cancellation?: NativeCancellation | undefined;
  round: number;
}

/** Fits the thoughts anew, to prompt and draft. */
async function rethink(
  host: ThoughtCore,
  drafts: readonly Draft[],
  { settings, cancellation, round }: Rethinking,
): Promise<void> {
  const texts = drafts.map(({ prompt, tokens }) => [...prompt, ...tokens]);
  const seeds = drafts.map((draft) => seedOf(draft, round, FIT));
  // A step is a pass, and one more scores the draw in the end, where there is an end.
  const keep = (thoughts: readonly Thought[], scored: number) => {
    for (const [at, draft] of drafts.entries()) {
      draft.thought = thoughts[at]!;
      draft.passes += draft.thought.steps + scored;
    }
  };
  try {
    keep(await fitAll(host, { texts, seeds, settings, cancellation }), 1);
  } catch (error) {
    throw mapPartial(error, (left: Thought[]) => keep(left, 0));
  }
}

/** Fits the thoughts to the drafts, and judges the drafts by them: the bound per token, with draws that the fits have not seen. */
export async function judge(host: ThoughtCore, drafts: readonly Draft[], rethinking: Rethinking): Promise<void> {
  await rethink(host, drafts, rethinking);
  const { native, config, sizes } = host;
  const size = sizes.latents * sizes.width;
  const mean = new Float32Array(drafts.length * size);
  const logVariance = new Float32Array(drafts.length * size);
  for (const [b, { thought }] of drafts.entries()) {
    mean.set(thought!.mean, b * size);
    logVariance.set(thought!.logVariance, b * size);
  }
  const texts = drafts.map(({ prompt, tokens }) => ({ ids: [...prompt, ...tokens] }));
  const seeds = BigUint64Array.from(drafts, (draft) => seedOf(draft, rethinking.round, BOUND));
  const { cancellation } = rethinking;
  const request = { ...textBatch(texts, config.bosTokenId), mean, logVariance, count: BOUND_DRAWS, seeds };
  const { nelbo } = await native.bound({ ...request, ...(cancellation && { cancellation }) });
  for (const [b, draft] of drafts.entries()) {
    draft.bound = nelbo[b]! / texts[b]!.ids.length;
    draft.passes += BOUND_DRAWS;
  }
}
