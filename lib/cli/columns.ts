/** A share, 0 .. 1; nothing where there is none. Nearly all is not said to be all. */
export function percent(share: number | undefined): string {
  if (share === undefined) return "";
  return `${(100 * share).toFixed(share >= 0.995 && share < 1 ? 1 : 0)} %`;
}

/** Rows with their cells under each other. */
export function columnsOf(rows: readonly (readonly (string | undefined)[])[]): string {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => (row[i] ?? "").length)));
  return rows
    .map(
      (row) =>
        `${row
          .map((cell, i) => (cell ?? "").padEnd(widths[i]!))
          .join("  ")
          .trimEnd()}\n`,
    )
    .join("");
}
