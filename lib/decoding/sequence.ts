/** One sequence on its way from masks to text: which step it is at, and which positions are decided. */

import { Rng } from "../rng.js";
import type { Moment } from "./policy.js";
import type { DecodingSettings } from "./resolve.js";
import { type Block, blocksOf, shareAt, timeShareAt } from "./schedule.js";

export interface SequenceStart {
  /** [T] fixed tokens, and the mask token elsewhere. */
  readonly ids: Int32Array;
  readonly seed: bigint;
  /** Text may end at the first end-of-text token from this position on; -1: never. */
  readonly eosFrom: number;
}

/** What a sequence needs to know of its run. */
export interface SequenceRules {
  readonly maskId: number;
  readonly settings: DecodingSettings;
  /** One more pass after a block's last step, for masks that remain. */
  readonly fill: boolean;
}

export class Sequence {
  /** [T] as decided so far. */
  readonly ids: Int32Array;
  /** [T] the latest proposals where nothing is decided yet. */
  readonly draft: Int32Array;
  /** [T] probability of the draft's tokens when they were last looked at; 1 for given tokens. */
  readonly confidence: Float32Array;
  /** Masked positions, ascending. */
  masked: number[];
  /** Where the text ends: one past its end-of-text token, or -1. */
  cut = -1;
  /** Forward passes that looked at this sequence. */
  passes = 0;
  /** Positions that the rule left masked and the driver filled. */
  filled = 0;
  readonly #rules: SequenceRules;
  readonly #rng: Rng;
  readonly #blocks: readonly Block[];
  readonly #eosFrom: number;
  #block = 0;
  #index = 0;
  #prefix: number;

  constructor(start: SequenceStart, rules: SequenceRules) {
    this.ids = start.ids.slice();
    this.draft = start.ids.slice();
    this.confidence = Float32Array.from(start.ids, (id) => (id === rules.maskId ? 0 : 1));
    this.masked = maskedPositions(this.ids, rules.maskId);
    this.#rules = rules;
    this.#rng = new Rng(start.seed);
    this.#blocks = blocksOf(this.masked, rules.settings);
    this.#eosFrom = start.eosFrom;
    this.#prefix = Math.max(0, start.eosFrom);
  }

  get finished(): boolean {
    return this.cut >= 0 || this.#block >= this.#blocks.length;
  }

  /** The block's steps are over and masks remain: they are to be filled greedily. */
  get filling(): boolean {
    return !this.#adaptive && this.#index >= this.#blocks[this.#block]!.steps;
  }

  /** What the policy may look at in this step of the generation. */
  moment(step: number): Moment {
    const { end, steps } = this.#blocks[this.#block]!;
    const positions = this.masked.filter((at) => at < end);
    return {
      rng: this.#rng,
      step,
      index: this.#index,
      of: this.#adaptive ? 0 : steps,
      count: this.#index < steps ? this.#share(positions.length) : positions.length,
      positions,
      length: this.ids.length,
      known: this.ids.length - this.masked.length,
    };
  }

  /** How many of the block's masks this step is to unmask. */
  #share(left: number): number {
    const { size, steps } = this.#blocks[this.#block]!;
    const even = this.#rules.settings.schedule === "even";
    return even ? shareAt(size, steps, this.#index) : timeShareAt(left, steps, this.#index);
  }

  /** Notes what a pass proposed. */
  look(positions: readonly number[], tokens: ArrayLike<number>, confidence: ArrayLike<number>): void {
    positions.forEach((at, i) => {
      this.draft[at] = tokens[i]!;
      this.confidence[at] = confidence[i]!;
    });
  }

  /** Decides positions for their drafts; a mask token leaves its position masked. */
  decide(positions: readonly number[]): void {
    for (const at of positions) this.ids[at] = this.draft[at]!;
    this.masked = this.masked.filter((at) => this.ids[at] === this.#rules.maskId);
  }

  /** Goes on to the next step, and from a block's last one to the next block. */
  advance(): void {
    this.#index++;
    const open = this.#isOpen;
    const steps = this.#blocks[this.#block]!.steps + (this.#leavesMasks && open ? 1 : 0);
    if (this.#adaptive ? open : this.#index < steps) return;
    this.#block++;
    this.#index = 0;
  }

  /** The steps from here on that have nothing to unmask: a block has no masks left before its steps are over. */
  get idle(): number {
    return this.#isOpen ? 0 : this.#blocks[this.#block]!.steps - this.#index;
  }

  /** Passes over idle steps. */
  skip(steps: number): void {
    this.#index += steps - 1;
    this.advance();
  }

  /** Whether the block has masks. */
  get #isOpen(): boolean {
    const { end } = this.#blocks[this.#block]!;
    return (this.masked[0] ?? end) < end;
  }

  get #adaptive(): boolean {
    const { policy } = this.#rules.settings;
    return policy.kind === "closed" && policy.adaptive === true;
  }

  get #leavesMasks(): boolean {
    const { policy } = this.#rules.settings;
    return this.#rules.fill && policy.kind === "closed" && policy.leavesMasks === true;
  }

  /** Ends the sequence when a decided end-of-text token has only decided positions before it. */
  stopAt(eosId: number): void {
    const { maskId } = this.#rules;
    if (this.#eosFrom < 0 || this.cut >= 0) return;
    while (this.#prefix < this.ids.length && this.ids[this.#prefix] !== maskId) {
      if (this.ids[this.#prefix] === eosId) {
        this.cut = this.#prefix + 1;
        return;
      }
      this.#prefix++;
    }
  }
}

function maskedPositions(ids: Int32Array, maskId: number): number[] {
  const positions: number[] = [];
  ids.forEach((id, at) => {
    if (id === maskId) positions.push(at);
  });
  return positions;
}
