/** The learning rate as a pure function of the step, so that resuming needs nothing but the step. */

/**
 * "cosine" and "linear" fall from the end of the warm-up to the last step; "stable" stays at the peak and falls linearly over
 * the last `decay` steps only (a run whose length is not known yet can be prolonged before that); "constant" never falls.
 */
export type ScheduleShape = "cosine" | "linear" | "stable" | "constant";
export const scheduleShapes: readonly ScheduleShape[] = ["cosine", "linear", "stable", "constant"];

export interface Schedule {
  shape: ScheduleShape;
  peak: number;
  /** Steps of linear warm-up; step `warmup` is the first at the peak. */
  warmup: number;
  /** The run's last step. */
  steps: number;
  /** The last step's rate as a fraction of the peak. */
  floor: number;
  /** "stable" only: how many steps the fall takes. */
  decay: number;
}

/** The rate of a step; steps count from 1. Past the last step it stays at the floor. */
export function learningRate(schedule: Schedule, step: number): number {
  if (step <= schedule.warmup) return (schedule.peak * step) / schedule.warmup;
  const low = schedule.peak * schedule.floor;
  const fraction = Math.min(1, fallen(schedule, step));
  switch (schedule.shape) {
    case "constant":
      return schedule.peak;
    case "cosine":
      return low + (schedule.peak - low) * 0.5 * (1 + Math.cos(Math.PI * fraction));
    case "linear":
    case "stable":
      return schedule.peak + (low - schedule.peak) * fraction;
  }
}

/** How much of the fall lies behind: 0 before it, 1 at the last step. */
function fallen(schedule: Schedule, step: number): number {
  const length =
    schedule.shape === "stable"
      ? Math.min(schedule.decay, schedule.steps - schedule.warmup)
      : schedule.steps - schedule.warmup;
  return length <= 0 ? 1 : Math.max(0, step - (schedule.steps - length)) / length;
}
