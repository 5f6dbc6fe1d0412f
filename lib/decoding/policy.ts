/**
 * What a decoding policy is.
 *
 * Masked diffusion starts from a canvas: fixed tokens (a prompt, the text around a hole) and MASK elsewhere. Every step
 * is one forward pass, which proposes a token for each masked position at once, and one decision: which of the proposals
 * to keep. The policy is that decision. It never sees logits (rows of logits are native); it sees one number per row.
 *
 * There are two kinds, told apart by whether the decision needs the proposals:
 *
 * - An **open** policy picks positions without looking (uniformly at random, for instance). All its steps are known
 *   before the first forward pass, so the driver lays out the whole plan and the native loop runs it in one crossing.
 * - A **closed** policy asks for statistics of the rows (`ask`), then chooses among them (`choose`). That costs one
 *   crossing per step, with a few bytes per row each way.
 *
 * What a policy need not care about: blocks (the driver offers it the positions of the current block only), how many
 * tokens a step should make (`Moment.count`), batches (a sequence never sees another one), end-of-text, streaming,
 * aborting. A policy keeps no state between calls: the same moment gives the same answer, and its only randomness is
 * `Moment.rng`, keyed by step and position. That is what makes the output a function of the seed alone.
 */

import type { ConvolutionalDraw, Draw, StepRequest } from "../native/addon.js";
import type { Rng } from "../rng.js";
import type { OptionSpecs, OptionValue } from "./options.js";

/** One sequence before a step. */
export interface Moment {
  /** Draws of this sequence's seed. */
  readonly rng: Rng;
  /** Counts the steps of the whole generation; keys all draws, here and in native code. */
  readonly step: number;
  /** This step within its block, and how many steps the block has (0: as many as it takes, for adaptive policies). */
  readonly index: number;
  readonly of: number;
  /** How many tokens the schedule wants from this step (all that remain at a block's last step). */
  readonly count: number;
  /** Masked positions that may be unmasked now, ascending: those up to the end of the current block. */
  readonly positions: readonly number[];
  /** Positions of the whole sequence, and how many of them are not masked. */
  readonly length: number;
  readonly known: number;
}

/** What native code reports of each position of the moment, index by index. */
export interface Observed extends Moment {
  readonly tokens: Int32Array;
  /** Untempered softmax probability of the proposed token. */
  readonly confidence: Float32Array;
  readonly entropy?: Float32Array;
  readonly margin?: Float32Array;
  readonly neighbourhood?: Float32Array;
}

/** The statistics that a closed policy wants besides tokens and their confidence. */
export interface Question {
  readonly entropy?: boolean;
  readonly margin?: boolean;
  readonly neighbourhood?: NonNullable<StepRequest["neighbourhood"]>;
  /** Lets the convolutional rule draw; a position that it leaves masked reports the mask token, and cannot be chosen. */
  readonly convolution?: Omit<ConvolutionalDraw, "uniforms">;
}

export interface OpenPolicy {
  readonly kind: "open";
  /** The positions to unmask in this step. */
  pick(moment: Moment): number[];
}

export interface ClosedPolicy {
  readonly kind: "closed";
  /** It decides by itself how many tokens a step makes (at least one), so a block has no fixed number of steps. */
  readonly adaptive?: boolean;
  /** Positions may remain masked after a block's last step; the driver fills those greedily, in one more pass. */
  readonly leavesMasks?: boolean;
  ask(moment: Moment): Question;
  /** Indices into `positions` of the proposals to keep. */
  choose(observed: Observed): number[];
}

export type Policy = OpenPolicy | ClosedPolicy;

/** A rule's defaults for shared options; without a temperature there is no drawing, so that one is a must. */
export interface PolicyDefaults {
  readonly temperature: number;
  readonly blockLength?: number;
}

/** A rule's own options after checking. */
export type OwnOptions = Readonly<Record<string, OptionValue | undefined>>;

/** An entry of the registry. */
export interface PolicyDefinition {
  readonly name: string;
  /** One line for help texts. */
  readonly summary: string;
  /** Options of its own, next to the shared ones. */
  readonly options: OptionSpecs;
  defaults(options: OwnOptions): PolicyDefaults;
  create(options: OwnOptions, draw: Draw): Policy;
}
