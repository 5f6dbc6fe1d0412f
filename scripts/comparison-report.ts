// What the pages of comparisons share: ratios with their errors, and tables.
import { BoundTotals } from "../lib/evaluation/statistics.js";

export interface Ratio {
  value: number;
  /** Over windows. */
  standardError: number;
}

/** What windows cost, per token: a ratio of totals. */
export function perToken(costs: readonly number[], tokens: readonly number[]): Ratio {
  const totals = new BoundTotals();
  for (const [index, nats] of costs.entries()) totals.add({ index, tokens: tokens[index]!, nats, variance: 0 });
  const { bound: value, standardError } = totals.summary(0);
  return { value, standardError };
}

export const minus = (a: readonly number[], b: readonly number[]): number[] => a.map((value, i) => value - b[i]!);
export const plus = (a: readonly number[], b: readonly number[]): number[] => a.map((value, i) => value + b[i]!);

export const plusMinus = ({ value, standardError }: Ratio): string =>
  `${value.toFixed(4)} ± ${standardError.toFixed(4)}`;

/** Further from zero than chance takes it: two standard errors. */
export const sign = ({ value, standardError }: Ratio): number =>
  Math.abs(value) > 2 * standardError ? Math.sign(value) : 0;

export function markdown(head: readonly string[], body: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), `|${"---|".repeat(head.length)}`, ...body.map(line)].join("\n");
}
