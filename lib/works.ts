/** Jobs, each making several texts together, as the works behind generations. */

import { NoemaError } from "./errors.js";
import type { GenerationEvent, GenerationResult, Work } from "./generation.js";

/** Makes some texts together; index by index of what it was given. */
export interface Job {
  run(emit: (at: number, event: GenerationEvent) => void): Promise<GenerationResult[]>;
  cancel(): void;
  /** What is there so far. */
  results(): GenerationResult[];
}

/** A job's only text. */
export class SingleWork implements Work<GenerationResult> {
  constructor(readonly job: Job) {}

  async run(emit: (event: GenerationEvent) => void): Promise<GenerationResult> {
    const [result] = await this.job.run((_, event) => emit(event));
    return result!;
  }

  cancel(): void {
    this.job.cancel();
  }

  partial(): GenerationResult {
    return this.job.results()[0]!;
  }
}

/** Many texts, those of one shape in jobs of at most `limit`, one job after the other. */
export class BatchWork<Canvas> implements Work<GenerationResult[]> {
  readonly #jobs: readonly { job: Job; indices: readonly number[] }[];
  readonly #count: number;
  #cancelled = false;

  constructor(
    canvases: readonly Canvas[],
    { shapeOf, limit, jobOf }: { shapeOf(canvas: Canvas): string; limit: number; jobOf(canvases: Canvas[]): Job },
  ) {
    this.#count = canvases.length;
    this.#jobs = groupsOf(canvases.map(shapeOf), limit).map((indices) => {
      return { indices, job: jobOf(indices.map((i) => canvases[i]!)) };
    });
  }

  async run(): Promise<GenerationResult[]> {
    for (const { job, indices } of this.#jobs) {
      if (this.#cancelled) throw new NoemaError("ERR_ABORTED", "the generation was cancelled");
      try {
        await job.run(() => {});
      } catch (error) {
        throw withPrompt(error, indices);
      }
    }
    return this.partial();
  }

  cancel(): void {
    this.#cancelled = true;
    for (const { job } of this.#jobs) job.cancel();
  }

  partial(): GenerationResult[] {
    const results = new Array<GenerationResult>(this.#count);
    for (const { job, indices } of this.#jobs)
      for (const [i, result] of job.results().entries()) results[indices[i]!] = result;
    return results;
  }
}

/** An error of one of a job's sequences says in its details which prompt that is. */
function withPrompt(error: unknown, indices: readonly number[]): unknown {
  if (!(error instanceof NoemaError) || typeof error.details["sequence"] !== "number") return error;
  const prompt = indices[error.details["sequence"]];
  return new NoemaError(error.code, error.message, { ...error.details, prompt }, { cause: error });
}

/** Indices of one shape, at most `limit` in a group. */
function groupsOf(shapes: readonly string[], limit: number): number[][] {
  const open = new Map<string, number[]>();
  const groups: number[][] = [];
  for (const [i, shape] of shapes.entries()) {
    let group = open.get(shape);
    if (!group || group.length === limit) {
      group = [];
      open.set(shape, group);
      groups.push(group);
    }
    group.push(i);
  }
  return groups;
}
