/** Colours where they are seen: on a terminal, unless NO_COLOR is set. */

import colors from "picocolors";

export type Palette = ReturnType<typeof colors.createColors>;

export function paletteOf(stream: NodeJS.WritableStream): Palette {
  const { isTTY } = stream as { isTTY?: boolean };
  return colors.createColors(isTTY === true && !process.env["NO_COLOR"]);
}
