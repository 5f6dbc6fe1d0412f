/** Texts guided by thoughts: canvases of one shape are fitted, written, judged and thought over together. */

import { blank, type Draft, fitPrompts, judge, type Writing, write } from "../decoding/drafts.js";
import { sequenceSeed } from "../evaluation/thought-bound.js";
import {
  type FinishReason,
  type GenerationEvent,
  type GenerationResult,
  type RefineEvent,
  refineEvent,
  type Timing,
} from "../generation.js";
import type { NativeCancellation } from "../native/addon.js";
import { Rng } from "../rng.js";
import type { ThoughtHost } from "./host.js";
import type { ThoughtCanvas, ThoughtManner } from "./request.js";

type Emit = (at: number, event: GenerationEvent) => void;

/** A draft's seed among a canvas's candidates: the first has the canvas's own. */
const candidateSeed = (seed: bigint, candidate: number): bigint =>
  candidate === 0 ? seed : sequenceSeed(new Rng(seed), 0xffffffff, candidate);

const lowest = (drafts: readonly Draft[]): Draft => drafts.reduce((a, b) => (b.bound < a.bound ? b : a));

/** One canvas's way out: committed tokens, and their text. */
class Outlet {
  readonly ids: number[] = [];
  text = "";
  readonly timing: Timing = { total: 0 };
  readonly #stream;
  readonly #started = performance.now();
  readonly #pending: number[] = [];

  constructor({ tokenizer }: ThoughtHost) {
    this.#stream = tokenizer?.decodeStream({ skipSpecialTokens: true });
  }

  /** The event for these tokens, if they make text; `final`: whatever is left. */
  commit(tokens: readonly number[], final: boolean): GenerationEvent | undefined {
    for (const token of tokens) {
      this.ids.push(token);
      this.#pending.push(token);
    }
    const text = (this.#stream?.push(tokens) ?? "") + (final ? (this.#stream?.end() ?? "") : "");
    if (text === "" && (this.#pending.length === 0 || (this.#stream && !final))) return undefined;
    this.text += text;
    this.timing.firstCommit ??= performance.now() - this.#started;
    return { type: "commit", text, ids: Int32Array.from(this.#pending.splice(0)) };
  }

  stop(): void {
    this.timing.total = performance.now() - this.#started;
  }
}

export class ThoughtJob {
  readonly #host: ThoughtHost;
  readonly #canvases: readonly ThoughtCanvas[];
  readonly #manner: ThoughtManner;
  readonly #cancellation: NativeCancellation;
  readonly #outlets: readonly Outlet[];
  /** Every candidate of every canvas, as it stands. */
  #candidates: readonly Draft[] = [];
  #drafts: readonly Draft[] = [];
  #ended = false;

  /** All canvases have prompts of one length and want as many tokens. */
  constructor(host: ThoughtHost, canvases: readonly ThoughtCanvas[], manner: ThoughtManner) {
    this.#host = host;
    this.#canvases = canvases;
    this.#manner = manner;
    this.#cancellation = host.createCancellation();
    this.#outlets = canvases.map(() => new Outlet(host));
  }

  cancel(): void {
    this.#cancellation.cancel();
  }

  async run(emit: Emit): Promise<GenerationResult[]> {
    if (this.#canvases[0]!.wanted > 0) await this.#write(emit);
    this.#ended = true;
    for (const [at, outlet] of this.#outlets.entries()) {
      const last = outlet.commit(this.#rest(at), true);
      if (last) emit(at, last);
      outlet.stop();
    }
    for (const [at, { reason, usage, timing, filled }] of this.results().entries())
      emit(at, { type: "finish", reason, usage, timing, filled });
    return this.results();
  }

  async #write(emit: Emit): Promise<void> {
    const { rounds, candidates } = this.#manner;
    const streams = rounds === 0 && candidates === 1;
    const [{ wanted }] = this.#canvases as [ThoughtCanvas];
    const writing: Writing = {
      ...{ wanted, manner: this.#manner, cancellation: this.#cancellation },
      ...(streams && { onTokens: (at: number, tokens: readonly number[]) => this.#stream(at, tokens, emit) }),
    };
    const starts = this.#canvases.flatMap(({ prompt, seed }) =>
      Array.from({ length: candidates }, (_, i) => ({ prompt, seed: candidateSeed(seed, i) })),
    );
    const drafts = blank(this.#host, starts, this.#manner);
    this.#candidates = drafts;
    await fitPrompts(this.#host, drafts, writing);
    await write(this.#host, drafts, writing);
    this.#drafts = streams ? drafts : await this.#thoughtOver(drafts, writing, emit);
  }

  /** The best of every canvas's candidates, each the best of its rounds. */
  async #thoughtOver(drafts: Draft[], writing: Writing, emit: Emit): Promise<Draft[]> {
    const { rounds, fit: settings } = this.#manner;
    const cancellation = this.#cancellation;
    const best = drafts.map((draft) => ({ ...draft }));
    for (let round = 0; ; round++) {
      await judge(this.#host, drafts, { settings, cancellation, round: 2 ** 24 + round });
      for (const [i, draft] of drafts.entries()) if (!(draft.bound >= best[i]!.bound)) best[i] = { ...draft };
      this.#tell(best, round, emit);
      if (round === rounds) break;
      await write(this.#host, drafts, writing, round + 1);
    }
    return this.#canvases.map((_, at) => lowest(this.#own(best, at)));
  }

  /** Of drafts of all canvases, one canvas's. */
  #own(drafts: readonly Draft[], at: number): readonly Draft[] {
    const { candidates } = this.#manner;
    return drafts.slice(at * candidates, (at + 1) * candidates);
  }

  /** The best draft of every canvas so far. */
  #tell(best: readonly Draft[], step: number, emit: Emit): void {
    if (!this.#manner.refine) return;
    for (const at of this.#canvases.keys()) {
      const { tokens } = lowest(this.#own(best, at));
      emit(at, this.#draft(at, tokens, { step, round: step }));
    }
  }

  /** A canvas's prompt and these tokens, decided if no draft of another round may replace them. */
  #draft(at: number, tokens: readonly number[], steps: Pick<RefineEvent, "step" | "round">): RefineEvent {
    const { prompt } = this.#canvases[at]!;
    const ids = Int32Array.from([...prompt, ...tokens]);
    const mask = new Uint8Array(ids.length).fill(steps.round === undefined ? 0 : 1, prompt.length);
    const confidence = new Float32Array(ids.length).fill(1);
    const decode = () =>
      this.#host.tokenizer?.decode(this.#ownOf(ids.subarray(prompt.length)), { skipSpecialTokens: true }) ?? "";
    return refineEvent({ type: "refine", ids, mask, confidence, ...steps }, decode);
  }

  #stream(at: number, tokens: readonly number[], emit: Emit): void {
    const own = this.#ownOf(tokens);
    const event = this.#outlets[at]!.commit(own, false);
    if (event) emit(at, event);
    if (!this.#manner.refine || own.length === 0) return;
    const { ids } = this.#outlets[at]!;
    emit(at, this.#draft(at, ids, { step: ids.length }));
  }

  /** Without the token that ends a text. */
  #ownOf(tokens: ArrayLike<number>): readonly number[] {
    const own = Array.from(tokens);
    const end = own.indexOf(this.#host.config.eosTokenId ?? -1);
    return end < 0 ? own : own.slice(0, end);
  }

  /** What was not streamed. */
  #rest(at: number): readonly number[] {
    return this.#ownOf(this.#drafts[at]?.tokens ?? []).slice(this.#outlets[at]!.ids.length);
  }

  results(): GenerationResult[] {
    return this.#canvases.map(({ prompt, wanted }, at) => {
      const { ids, text, timing } = this.#outlets[at]!;
      const reason: FinishReason = !this.#ended ? "abort" : ids.length < wanted ? "eos" : "length";
      const candidates = this.#own(this.#candidates, at);
      const forwards = candidates.reduce((sum, { passes }) => sum + passes, 0);
      const { thought } = this.#drafts[at] ?? candidates[0] ?? {};
      const usage = { promptTokens: prompt.length, completionTokens: ids.length, forwards };
      const known = { ...(thought && { thought }), timing: { ...timing }, filled: 0 };
      return { text, ids: Int32Array.from(ids), reason, usage, ...known };
    });
  }
}
