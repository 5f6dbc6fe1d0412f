/**
 * Runs a policy on a native session: closed policies step by step, open ones as one plan in a single crossing. All
 * sequences of a session have one length, and each takes its n-th step in the session's n-th, so what becomes of a
 * sequence does not depend on its company.
 */

import { NoemaError } from "../errors.js";
import type { Draw, NativeCancellation, NativeSession, StepResult } from "../native/addon.js";
import { Stretch } from "../stretch.js";
import type { ClosedPolicy, Moment, OpenPolicy, Question } from "./policy.js";
import type { DecodingSettings } from "./resolve.js";
import { Sequence, type SequenceStart } from "./sequence.js";

export interface DecodeTask {
  readonly session: NativeSession;
  readonly starts: readonly SequenceStart[];
  readonly settings: DecodingSettings;
  readonly maskId: number;
  readonly eosId: number;
  readonly cancellation?: NativeCancellation;
  /** Whether the cancellation was asked for. */
  readonly isCancelled?: () => boolean;
  /** Runs an open policy step by step too, so that every step is reported with its confidences. */
  readonly stepwise?: boolean;
  /** Is told of every step, and whether it was idle: that nothing was left to unmask before it. Plans tell of none as idle. */
  readonly onStep?: (step: number, isIdle: boolean) => void;
  /** The token that is never drawn; without it, MASK. */
  readonly excludedId?: number;
  /** False: masks that a policy leaves stay. */
  readonly fill?: boolean;
  readonly maxSteps?: number;
  /** Changes a sequence after a step (verification); returns the positions that it wrote. */
  readonly revise?: (sequence: Sequence) => number[];
  /** Given randomness for the convolutional draw of a step (verification). */
  readonly uniforms?: (step: number, rows: readonly number[]) => Float32Array;
}

/** One sequence's part in a step. */
interface Turn {
  readonly at: number;
  readonly sequence: Sequence;
  readonly moment: Moment;
  /** Positions to look at. */
  readonly positions: readonly number[];
  readonly question: Question;
  readonly draw: Draw;
}

const greedy: Draw = { kind: "argmax", temperature: 0, topK: 0, topP: 1 };

export class Decoder {
  readonly sequences: readonly Sequence[];
  readonly #task: DecodeTask;
  readonly #length: number;
  readonly #decidedRows: number[] = [];
  readonly #decidedIds: number[] = [];

  constructor(task: DecodeTask) {
    const { settings, maskId, fill = true } = task;
    this.#task = task;
    this.#length = task.starts[0]?.ids.length ?? 0;
    this.sequences = task.starts.map((start) => new Sequence(start, { settings, maskId, fill }));
    if (settings.stopAtEos) for (const sequence of this.sequences) sequence.stopAt(task.eosId);
  }

  /** Resolves when every sequence is finished. What was made so far can be read from `sequences` at any time. */
  async run(): Promise<void> {
    const { policy } = this.#task.settings;
    if (policy.kind === "open" && !this.#task.stepwise) await this.#runPlan(policy);
    else await this.#runSteps();
  }

  async #runSteps(): Promise<void> {
    const { maxSteps = Number.POSITIVE_INFINITY, onStep } = this.#task;
    const stretch = new Stretch();
    for (let step = 0; step < maxSteps && this.sequences.some((sequence) => !sequence.finished); step++) {
      await this.#rest(stretch);
      const turns = this.#turns(step);
      for (const group of grouped(turns)) await this.#take(step, group);
      this.#finishStep();
      onStep?.(step, false);
      for (let idle = skipIdle(this.sequences); idle > 0 && step + 1 < maxSteps; idle--) onStep?.(++step, true);
    }
  }

  /** Steps without a forward pass, and the laying out of a plan, would hold the event loop and hear of no cancellation. */
  async #rest(stretch: Stretch): Promise<void> {
    if ((await stretch.rest()) && this.#task.isCancelled?.())
      throw new NoemaError("ERR_ABORTED", "the decoding was cancelled");
  }

  #turns(step: number): Turn[] {
    return this.sequences.flatMap((sequence, at) => {
      if (sequence.finished) return [];
      const turn = this.#turn(at, sequence, sequence.moment(step));
      return turn.positions.length > 0 ? [turn] : [];
    });
  }

  #turn(at: number, sequence: Sequence, moment: Moment): Turn {
    const { policy, draw } = this.#task.settings;
    const { positions } = moment;
    if (sequence.filling) return { at, sequence, moment, positions, question: {}, draw: greedy };
    if (policy.kind === "open") {
      const picked = policy.pick(moment).sort((a, b) => a - b);
      return { at, sequence, moment, positions: picked, question: {}, draw };
    }
    const idle = moment.count === 0 && !policy.leavesMasks && !policy.adaptive;
    return { at, sequence, moment, positions: idle ? [] : positions, question: policy.ask(moment), draw };
  }

  /** One forward pass for turns that ask the same. */
  async #take(step: number, turns: readonly Turn[]): Promise<void> {
    const { session, maskId, excludedId = maskId, cancellation, uniforms } = this.#task;
    const { question, draw } = turns[0]!;
    const rows = turns.flatMap((turn) => this.#rows(turn));
    const { convolution, ...statistics } = question;
    const given = convolution && uniforms ? { uniforms: uniforms(step, rows) } : {};
    const result = await session.step({
      step,
      setRows: Int32Array.from(this.#decidedRows.splice(0)),
      setIds: Int32Array.from(this.#decidedIds.splice(0)),
      rows: Int32Array.from(rows),
      draw,
      excludedId,
      ...statistics,
      ...(convolution ? { convolution: { ...convolution, ...given } } : {}),
      ...(cancellation ? { cancellation } : {}),
    });
    let offset = 0;
    for (const turn of turns) {
      this.#apply(turn, slice(result, offset, turn.positions.length));
      offset += turn.positions.length;
    }
  }

  #rows({ at, positions }: Turn): number[] {
    return positions.map((position) => at * this.#length + position);
  }

  #apply(turn: Turn, seen: StepResult): void {
    const { sequence, moment, positions } = turn;
    const { policy } = this.#task.settings;
    sequence.passes++;
    sequence.look(positions, seen.tokens, seen.confidence);
    if (sequence.filling) sequence.filled += positions.length;
    const all = sequence.filling || policy.kind === "open";
    const chosen = all ? positions : keep(policy as ClosedPolicy, moment, seen);
    this.#decide(turn.at, chosen);
  }

  #decide(at: number, positions: readonly number[]): void {
    const sequence = this.sequences[at]!;
    sequence.decide(positions);
    for (const position of positions) {
      this.#decidedRows.push(at * this.#length + position);
      this.#decidedIds.push(sequence.ids[position]!);
    }
  }

  #finishStep(): void {
    const { settings, eosId, revise } = this.#task;
    for (const [at, sequence] of this.sequences.entries()) {
      if (sequence.finished) continue;
      if (revise) this.#decide(at, revise(sequence));
      if (settings.stopAtEos) sequence.stopAt(eosId);
      if (!sequence.finished) sequence.advance();
    }
  }

  async #runPlan(policy: OpenPolicy): Promise<void> {
    const plan = await this.#layOut(policy);
    if (plan.rows.length === 0) return;
    const { session, settings, maskId, excludedId = maskId, cancellation } = this.#task;
    const follower = new PlanFollower(plan, this.sequences, this.#length, this.#task);
    try {
      const result = await session.run({
        firstStep: 0,
        setRows: new Int32Array(0),
        setIds: new Int32Array(0),
        rows: plan.rows,
        counts: countsOf(plan),
        draw: settings.draw,
        excludedId,
        onSteps: () => follower.follow(session.canvas()),
        ...(cancellation ? { cancellation } : {}),
      });
      const canvas = session.canvas();
      follower.follow(canvas);
      follower.confidences(result.confidence);
    } catch (error) {
      follower.followIfPossible(session);
      if (!follower.stopped) throw error;
    }
  }

  /** The rows of every step. Nothing depends on tokens, so any token stands for one. */
  async #layOut(policy: OpenPolicy): Promise<Plan> {
    const rows: number[] = [];
    const ends: number[] = [];
    const rehearsal = this.#rehearsal();
    const sequences = rehearsal.map(({ sequence }) => sequence);
    const stretch = new Stretch();
    for (let step = 0; sequences.some((sequence) => !sequence.finished); step++) {
      await this.#rest(stretch);
      for (const { at, sequence } of rehearsal) {
        if (sequence.finished) continue;
        for (const position of this.#rehearse(policy, sequence, step)) rows.push(at * this.#length + position);
        sequence.advance();
      }
      ends.push(rows.length);
      for (let idle = skipIdle(sequences); idle > 0; idle--, step++) ends.push(rows.length);
    }
    return { rows: Int32Array.from(rows), ends };
  }

  /** Stand-ins for the sequences that are not finished; none of them ends early. */
  #rehearsal(): { at: number; sequence: Sequence }[] {
    const { maskId, settings, starts } = this.#task;
    const rules = { settings, maskId, fill: false };
    return starts.flatMap(({ ids, seed }, at) =>
      this.sequences[at]!.finished ? [] : [{ at, sequence: new Sequence({ ids, seed, eosFrom: -1 }, rules) }],
    );
  }

  #rehearse(policy: OpenPolicy, sequence: Sequence, step: number): number[] {
    const picked = policy.pick(sequence.moment(step)).sort((a, b) => a - b);
    const anything = new Int32Array(picked.length).fill(this.#task.maskId === 0 ? 1 : 0);
    sequence.look(picked, anything, picked);
    sequence.decide(picked);
    return picked;
  }
}

/** Passes over the steps that are idle for every sequence that is not finished; says how many. */
function skipIdle(sequences: readonly Sequence[]): number {
  const open = sequences.filter((sequence) => !sequence.finished);
  if (open.length === 0) return 0;
  const steps = open.reduce((least, { idle }) => Math.min(least, idle), Number.POSITIVE_INFINITY);
  if (steps > 0) for (const sequence of open) sequence.skip(steps);
  return steps;
}

/** What an open policy unmasks. */
interface Plan {
  /** Of all steps, one after the other. */
  readonly rows: Int32Array;
  /** Where the rows of each step end. */
  readonly ends: readonly number[];
}

function rowsAt({ rows, ends }: Plan, step: number): Int32Array {
  return rows.subarray(ends[step - 1] ?? 0, ends[step]);
}

/** Rows per step, up to the last one that has any. */
function countsOf({ rows, ends }: Plan): Int32Array {
  const steps = ends.indexOf(rows.length) + 1;
  return Int32Array.from({ length: steps }, (_, step) => ends[step]! - (ends[step - 1] ?? 0));
}

/** Brings the sequences up to what a running plan has written. Steps finish in order. */
class PlanFollower {
  /** Every sequence has ended at its end-of-text token, so the rest of the plan was called off. */
  stopped = false;
  #done = 0;

  constructor(
    readonly plan: Plan,
    readonly sequences: readonly Sequence[],
    readonly length: number,
    readonly task: DecodeTask,
  ) {}

  follow(canvas: Int32Array): void {
    const { plan, task } = this;
    const steps = plan.ends.length;
    while (this.#done < steps) {
      const rows = rowsAt(plan, this.#done);
      if (rows.some((row) => canvas[row] === task.maskId)) break;
      this.#finish(rows, canvas);
      task.onStep?.(this.#done, false);
      this.#done++;
    }
    if (this.stopped || this.#done === steps || !this.sequences.every((sequence) => sequence.cut >= 0)) return;
    this.stopped = true;
    task.cancellation?.cancel();
  }

  followIfPossible(session: NativeSession): void {
    try {
      this.follow(session.canvas());
    } catch (error) {
      // The session went away with its model: what was reported before is all there is.
      if (!(error instanceof NoemaError) || error.code !== "ERR_DISPOSED") throw error;
    }
  }

  confidences(values: Float32Array): void {
    this.plan.rows.forEach((row, i) => {
      this.sequences[Math.floor(row / this.length)]!.confidence[row % this.length] = values[i]!;
    });
  }

  #finish(rows: Int32Array, canvas: Int32Array): void {
    this.sequences.forEach((sequence, at) => {
      if (sequence.finished) return;
      const first = at * this.length;
      const own = rows.filter((row) => row >= first && row < first + this.length);
      if (own.length > 0) {
        const positions = Array.from(own, (row) => row - first);
        sequence.passes++;
        for (const position of positions) sequence.draft[position] = canvas[first + position]!;
        sequence.decide(positions);
      }
      if (this.task.settings.stopAtEos) sequence.stopAt(this.task.eosId);
      if (!sequence.finished) sequence.advance();
    });
  }
}

/** Turns that ask the same share a forward pass; as a rule all do. */
function grouped(turns: readonly Turn[]): Turn[][] {
  const groups = new Map<string, Turn[]>();
  for (const turn of turns) {
    const key = JSON.stringify([turn.question, turn.draw.kind, turn.draw.temperature]);
    const group = groups.get(key);
    if (group) group.push(turn);
    else groups.set(key, [turn]);
  }
  return [...groups.values()];
}

function keep(policy: ClosedPolicy, moment: Moment, seen: StepResult): number[] {
  const { tokens, confidence, entropy, margin, neighbourhood } = seen;
  const chosen = policy.choose({
    ...moment,
    tokens,
    confidence,
    ...(entropy ? { entropy } : {}),
    ...(margin ? { margin } : {}),
    ...(neighbourhood ? { neighbourhood } : {}),
  });
  return chosen.map((i) => moment.positions[i]!);
}

/** The results of `count` rows from `offset` on. */
function slice(result: StepResult, offset: number, count: number): StepResult {
  const end = offset + count;
  const { tokens, confidence, entropy, margin, neighbourhood } = result;
  return {
    tokens: tokens.subarray(offset, end),
    confidence: confidence.subarray(offset, end),
    ...(entropy ? { entropy: entropy.subarray(offset, end) } : {}),
    ...(margin ? { margin: margin.subarray(offset, end) } : {}),
    ...(neighbourhood ? { neighbourhood: neighbourhood.subarray(offset, end) } : {}),
  };
}
