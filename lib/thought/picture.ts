/** A text's thought as an SVG: how its fit went, what its vectors cost, which of them each token reads. */

import { at, label, line, type Point, type Scale, svg } from "../svg.js";
import type { LayerReading, ThoughtInspection } from "./inspect.js";

const GAP = 24;
const PLOT = { left: 44, top: 34, width: 300, height: 150 };
const CURVE = { width: PLOT.left + PLOT.width + GAP, height: PLOT.top + PLOT.height + 40 };
/** Of the divergences: cells that hold numbers, or are too many to. */
const KL = { width: 40, narrow: 14, height: 22, label: 64, reading: 118, head: 58 };
const MOST_NUMBERS = 16;
/** Of the weights. */
const CELL = { width: 13, height: 13, label: 84 };
const HEAD = 40;
/** Tokens stand below each other; columns of them side by side as long as they fit, none of them short. */
const WIDE = 1000;
const FEWEST_ROWS = 24;

const STYLE = `text { font: 11px system-ui, sans-serif; fill: #7a7f87; }
.title { font-size: 13px; font-weight: 600; }
.small { font-size: 8px; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.grid { stroke: #7a7f87; stroke-opacity: 0.25; }
.heat { fill: #4a90d9; }
.none { fill: #7a7f87; fill-opacity: 0.08; }
polyline { fill: none; stroke-linecap: round; }
.sum { stroke: #7a7f87; stroke-width: 2.5; }
.cross-entropy { stroke: #4a90d9; stroke-width: 1.5; }
.kl { stroke: #e07b39; stroke-width: 1.5; }`;

/**
 * Above, the nats of every step of the fit, and the divergence from the prior of every vector with what the text costs when the layers up
 * to there read the draw. Below, a row for each token: what the position that predicts it weighs each layer's vectors by.
 */
export function thoughtPicture(inspection: ThoughtInspection, decode: (id: number) => string): string {
  const { kl, tokens } = inspection;
  const [L, M] = [kl.length, kl[0]!.length];
  const column = CELL.label + L * layerWidth(M);
  const across = Math.max(1, Math.min(Math.floor(WIDE / (column + GAP)), Math.ceil(tokens / FEWEST_ROWS)));
  const rows = Math.ceil(tokens / across);
  const top = Math.max(CURVE.height, KL.head + (L + 1) * KL.height + GAP);
  const width = Math.max(CURVE.width + KL.label + M * klWidth(M) + KL.reading, across * (column + GAP) - GAP) + 8;
  const height = top + HEAD + 16 + rows * CELL.height + 8;
  return svg({ width, height, title: "A text's thought", style: STYLE }, [
    ...curveOf(inspection),
    ...divergences(inspection, CURVE.width),
    ...weights(inspection, decode, { top, rows, column }),
  ]);
}

// --- the fit ---------------------------------------------------------------------------------------------------------

/** Over a logarithmic axis: a fit starts thousands of nats above where it ends. Lines begin twice, so that one point is a dot. */
function curveOf({ curve: { crossEntropy, kl } }: ThoughtInspection): string[] {
  const lines = {
    sum: crossEntropy.map((nats, step) => decades(nats + kl[step]!)),
    kl: kl.map(decades),
    "cross-entropy": crossEntropy.map(decades),
  };
  const all = Object.values(lines).flat();
  const [right, bottom] = [PLOT.left + PLOT.width, PLOT.top + PLOT.height];
  const last = Math.max(1, kl.length - 1);
  const x: Scale = { from: 0, to: last, begin: PLOT.left, end: right };
  const from = Math.floor(Math.min(...all));
  const y: Scale = { from, to: Math.max(from + 1, Math.ceil(Math.max(...all))), begin: bottom, end: PLOT.top };
  const names = Object.keys(lines);
  return [
    `<text class="title" x="4" y="16">The fit, in nats</text>`,
    ...names.flatMap((name, i) => {
      const start = PLOT.left + 108 + i * 56;
      const word = name === "kl" ? "KL" : name;
      return [
        `<line class="${name}" x1="${start}" x2="${start + 12}" y1="12" y2="12"/>`,
        `<text x="${start + 16}" y="16">${word}</text>`,
      ];
    }),
    ...Array.from({ length: y.to - from + 1 }, (_, i) => decadeLine(from + i, y, right)),
    ...[0, last].map((step) => `<text class="middle" x="${at(x, step)}" y="${bottom + 16}">${step}</text>`),
    `<text class="middle" x="${(PLOT.left + right) / 2}" y="${bottom + 16}">step</text>`,
    ...Object.entries(lines).map(([name, values]) =>
      line(
        [0, ...values.keys()].map((step) => ({ x: step, y: values[step]! })),
        { x, y },
        name,
      ),
    ),
  ];
}

/** Nothing is told of less than a tenth of a nat. */
const decades = (nats: number): number => Math.log10(Math.max(0.1, nats));

function decadeLine(decade: number, y: Scale, right: number): string {
  const height = at(y, decade);
  const nats = (10 ** decade).toLocaleString("en", { notation: "compact" });
  return `<line class="grid" x1="${PLOT.left}" x2="${right}" y1="${height}" y2="${height}"/><text class="end" x="${PLOT.left - 6}" y="${height}" dy="4">${nats}</text>`;
}

// --- layers and their vectors ----------------------------------------------------------------------------------------

const klWidth = (M: number): number => (M > MOST_NUMBERS ? KL.narrow : KL.width);

function divergences({ kl, byLayers }: ThoughtInspection, left: number): string[] {
  const M = kl[0]!.length;
  const width = klWidth(M);
  const most = Math.max(...kl.flat());
  const x = (m: number) => left + KL.label + m * width;
  const y = (layer: number) => KL.head + (layer + 1) * KL.height;
  const middle = (m: number) => x(m) + width / 2 - 1;
  // Half of full colour: numbers stand on it.
  const cells = kl.flatMap((layer, l) => layer.map((nats, m) => ({ x: x(m), y: y(l), share: nats / most / 2 })));
  const numbers = kl.flatMap((layer, l) =>
    layer.map((nats, m) => `<text class="middle" x="${middle(m)}" y="${y(l) + 14}">${short(nats)}</text>`),
  );
  return [
    `<text class="title" x="${left}" y="16">KL of every vector, in nats</text>`,
    `<text class="end" x="${x(M) + KL.reading - 6}" y="${KL.head - 21}">read up to here</text>`,
    ...kl[0]!.map((_, m) => `<text class="small middle" x="${middle(m)}" y="${KL.head + 16}">${m}</text>`),
    `<text class="end" x="${x(M) + 64}" y="${KL.head - 6}">nats/token</text>`,
    `<text class="end" x="${x(M) + KL.reading - 6}" y="${KL.head - 6}">right</text>`,
    ...heatMap(cells, { width: width - 2, height: KL.height - 2 }),
    ...(M > MOST_NUMBERS ? [] : numbers),
    ...byLayers.flatMap((reading, l) => readingRow(reading, l, { left, end: x(M), y: y(l - 1) + 14 })),
  ];
}

const short = (nats: number): string => nats.toFixed(nats < 1000 ? 1 : 0);

/** What the text is when `layers` layers read the draw: at the row of the last of them. */
function readingRow(
  { crossEntropy, accuracy }: LayerReading,
  layers: number,
  { left, end, y }: { left: number; end: number; y: number },
): string[] {
  return [
    `<text x="${left}" y="${y}">${layers === 0 ? "no layer" : `layer ${layers - 1}`}</text>`,
    `<text class="end" x="${end + 64}" y="${y}">${crossEntropy.toFixed(3)}</text>`,
    `<text class="end" x="${end + KL.reading - 6}" y="${y}">${(100 * accuracy).toFixed(0)} %</text>`,
  ];
}

// --- tokens and the vectors they read --------------------------------------------------------------------------------

interface Columns {
  top: number;
  rows: number;
  /** Pixels. */
  column: number;
}

const layerWidth = (M: number): number => Math.max(M * CELL.width, 36) + 10;

function weights({ ids, attention }: ThoughtInspection, decode: (id: number) => string, place: Columns): string[] {
  const { top, rows, column } = place;
  const M = attention[0]![0]!.length;
  const range = attention.map((layer) => layer.flat());
  const least = Math.min(...range.map((own) => own.reduce((a, b) => Math.min(a, b))));
  const most = Math.max(...range.map((own) => own.reduce((a, b) => Math.max(a, b))));
  const head = top + 16 + HEAD;
  const left = (t: number) => Math.floor(t / rows) * (column + GAP);
  const y = (t: number) => head + (t % rows) * CELL.height;
  const cells = attention.flatMap((layer, l) =>
    layer.flatMap((own, t) =>
      own.map((weight, m) => ({
        x: left(t) + CELL.label + l * layerWidth(M) + m * CELL.width,
        y: y(t),
        share: most > least ? (weight - least) / (most - least) : 1,
      })),
    ),
  );
  const columns = Array.from({ length: Math.ceil(ids.length / rows) }, (_, i) => i * (column + GAP));
  return [
    `<text class="title" x="4" y="${top + 16}">Attention of the tokens to every layer's vectors, ${least.toFixed(2)} to ${most.toFixed(2)}</text>`,
    ...columns.flatMap((x) => attention.flatMap((_, l) => layerHead(l, M, x + CELL.label + l * layerWidth(M), head))),
    ...heatMap(cells, { width: CELL.width - 1, height: CELL.height - 1 }),
    ...Array.from(
      ids,
      (id, t) => `<text class="end" x="${left(t) + CELL.label - 6}" y="${y(t) + 10}">${label(decode(id))}</text>`,
    ),
  ];
}

function layerHead(layer: number, M: number, x: number, y: number): string[] {
  const numbers = Array.from(
    { length: M },
    (_, m) => `<text class="small middle" x="${x + (m + 0.5) * CELL.width}" y="${y - 4}">${m}</text>`,
  );
  return [`<text x="${x}" y="${y - 16}">layer ${layer}</text>`, ...numbers];
}

// --- heat maps -------------------------------------------------------------------------------------------------------

/** A cell; its share of full colour, 0 to 1. */
interface HeatCell extends Point {
  share: number;
}

const SHADES = 24;

/** A path for every shade: a map has thousands of cells. What is next to nothing has the ground's. */
function heatMap(cells: readonly HeatCell[], { width, height }: { width: number; height: number }): string[] {
  const shades = Array.from({ length: SHADES + 1 }, () => "");
  for (const { x, y, share } of cells)
    shades[share > 0 ? Math.round(SHADES * Math.min(1, share)) : 0] += `M${x} ${y}h${width}v${height}h${-width}z`;
  return shades.flatMap((path, shade) => {
    const style =
      shade === 0 ? `class="none"` : `class="heat" fill-opacity="${(0.08 + (0.92 * shade) / SHADES).toFixed(2)}"`;
    return path === "" ? [] : [`<path ${style} d="${path}"/>`];
  });
}
