/** A text's way from data to noise as an SVG. */

import { label, svg } from "../svg.js";
import type { Inspection, Level } from "./inspect.js";

const CELL = { width: 72, height: 22 };
const LABEL = 76;
const BAR = 40;
/** Tokens side by side; the rest goes below. */
const PER_BAND = 12;
const GAP = 18;

const STYLE = `text { font: 11px system-ui, sans-serif; fill: #7a7f87; }
.right { fill: #4a90d9; }
.wrong { fill: #e07b39; }
.bar { fill: #7a7f87; fill-opacity: 0.6; }
.none { fill: #7a7f87; fill-opacity: 0.08; }`;

/**
 * Every state is a row, base noise on top, the text at the bottom; a cell holds what the state reads as there, blue where that is the
 * text's own token, the stronger the surer. The bars below are each position's share of the bound, in nats.
 */
export function statesPicture(inspection: Inspection, decode: (id: number) => string): string {
  const { ids, levels } = inspection;
  const bands = Math.ceil(ids.length / PER_BAND);
  const bandHeight = levels.length * CELL.height + BAR + GAP;
  const width = LABEL + Math.min(ids.length, PER_BAND) * CELL.width;
  const height = bands * bandHeight;
  const parts: string[] = [];
  for (let band = 0; band < bands; band++) parts.push(...bandOf(inspection, decode, band, band * bandHeight));
  return svg({ width, height, title: "What every state of the text reads as", style: STYLE }, parts);
}

function bandOf(inspection: Inspection, decode: (id: number) => string, band: number, top: number): string[] {
  const { ids, levels } = inspection;
  const first = band * PER_BAND;
  const last = Math.min(ids.length, first + PER_BAND);
  const rows = [...levels].reverse().flatMap((level, row) => {
    const y = top + row * CELL.height;
    const name = level.level === 0 ? "text" : `state ${level.level}`;
    const cells = Array.from({ length: last - first }, (_, i) =>
      cellOf(level, ids, decode, { at: first + i, x: LABEL + i * CELL.width, y }),
    );
    return [`<text x="4" y="${y + 15}">${name}</text>`, ...cells];
  });
  return [...rows, ...barsOf(inspection, first, last, top + levels.length * CELL.height)];
}

interface Place {
  at: number;
  x: number;
  y: number;
}

function cellOf({ reading }: Level, ids: Int32Array, decode: (id: number) => string, { at, x, y }: Place): string {
  const size = `width="${CELL.width - 2}" height="${CELL.height - 2}"`;
  if (!reading) return `<rect class="none" x="${x}" y="${y}" ${size}/>`;
  const id = reading.ids[at]!;
  const kind = id === ids[at] ? "right" : "wrong";
  const opacity = (0.1 + 0.5 * reading.confidence[at]!).toFixed(2);
  const word = label(decode(id));
  return `<rect class="${kind}" fill-opacity="${opacity}" x="${x}" y="${y}" ${size}/><text x="${x + 4}" y="${y + 15}">${word}</text>`;
}

/** Of positions, which are `patchSize` tokens wide. */
function barsOf({ ids, nelbo, positions }: Inspection, first: number, last: number, y: number): string[] {
  const patch = ids.length / positions;
  const most = nelbo.reduce((largest, nats) => Math.max(largest, nats), 1);
  const bars: string[] = [`<text x="4" y="${y + 24}">nats</text>`];
  for (let n = Math.ceil(first / patch); n * patch < last; n++) {
    const nats = nelbo[n]!;
    const height = ((BAR - 14) * Math.max(0, nats)) / most;
    const x = LABEL + (n * patch - first) * CELL.width;
    const bottom = y + BAR - 12;
    bars.push(
      `<rect class="bar" x="${x}" y="${(bottom - height).toFixed(1)}" width="${patch * CELL.width - 2}" height="${height.toFixed(1)}"/>`,
      `<text x="${x + 4}" y="${bottom + 11}">${nats.toFixed(1)}</text>`,
    );
  }
  return bars;
}
