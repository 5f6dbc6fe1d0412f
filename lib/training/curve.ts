/** The loss curve of a run as an SVG. */

import type { EstimateKind } from "../evaluation/bound.js";
import { at, escapeXml, line, type Point, range, type Scale, svg, ticks } from "../svg.js";
import type { Metric } from "./metrics.js";

/** A point with half the height of its error bar. */
interface Estimate extends Point {
  error?: number;
}

const WIDTH = 720;
const HEIGHT = 400;
const PLOT = { left: 64, right: WIDTH - 20, top: 36, bottom: HEIGHT - 52 };

/** More points than pixels say nothing more: a training curve is drawn as at most this many averages. */
const MAX_POINTS = 240;

export interface CurveOptions {
  title?: string;
  /** What the losses are. */
  kind?: EstimateKind;
}

/** Draws loss over steps: training (averaged, for single batches are noisy) and held-out with its standard error. */
export function lossCurve(metrics: readonly Metric[], { title = "Loss", kind = "upper" }: CurveOptions = {}): string {
  const train = average(
    metrics.flatMap((metric) => (metric.type === "step" ? { x: metric.step, y: metric.loss } : [])),
  );
  const heldOut = metrics.flatMap((metric) =>
    metric.type === "held-out" ? { x: metric.step, y: metric.bound, error: metric.standardError } : [],
  );
  const x: Scale = { ...range([...train, ...heldOut].map((point) => point.x)), begin: PLOT.left, end: PLOT.right };
  const y: Scale = { ...range([...train, ...heldOut].map((point) => point.y)), begin: PLOT.bottom, end: PLOT.top };
  const scales = { x, y };
  return svg({ width: WIDTH, height: HEIGHT, title, style: STYLE }, [
    `<text class="title" x="${PLOT.left}" y="22">${escapeXml(title)}</text>`,
    ...horizontalTicks(y),
    ...verticalTicks(x),
    `<text x="${(PLOT.left + PLOT.right) / 2}" y="${HEIGHT - 12}" text-anchor="middle">step</text>`,
    `<text transform="translate(16 ${(PLOT.top + PLOT.bottom) / 2}) rotate(-90)" text-anchor="middle">nats per token${kind === "upper" ? " (upper bound)" : ""}</text>`,
    line(train, scales, "train"),
    ...errorBars(heldOut, x, y),
    line(heldOut, scales, "held"),
    ...heldOut.map((point) => `<circle class="held-dot" cx="${at(x, point.x)}" cy="${at(y, point.y)}" r="2.5"/>`),
    ...legend(),
  ]);
}

const STYLE = `text { font: 12px system-ui, sans-serif; fill: #7a7f87; }
.title { font-size: 14px; font-weight: 600; }
.grid { stroke: #7a7f87; stroke-opacity: 0.25; }
.train { fill: none; stroke: #4a90d9; stroke-width: 1.5; }
.held { fill: none; stroke: #e07b39; stroke-width: 2; }
.held-dot { fill: #e07b39; }`;

function average(points: readonly Point[]): Point[] {
  const size = Math.ceil(points.length / MAX_POINTS);
  const groups = Math.ceil(points.length / Math.max(1, size));
  return Array.from({ length: groups }, (_, group) => {
    const part = points.slice(group * size, (group + 1) * size);
    const mean = (of: (point: Point) => number) => part.reduce((sum, point) => sum + of(point), 0) / part.length;
    return { x: mean((point) => point.x), y: mean((point) => point.y) };
  });
}

function horizontalTicks(y: Scale): string[] {
  return ticks(y.from, y.to).flatMap((value) => [
    `<line class="grid" x1="${PLOT.left}" x2="${PLOT.right}" y1="${at(y, value)}" y2="${at(y, value)}"/>`,
    `<text x="${PLOT.left - 8}" y="${at(y, value)}" dy="4" text-anchor="end">${value}</text>`,
  ]);
}

function verticalTicks(x: Scale): string[] {
  return ticks(x.from, x.to).map(
    (value) => `<text x="${at(x, value)}" y="${PLOT.bottom + 18}" text-anchor="middle">${value}</text>`,
  );
}

function errorBars(points: readonly Estimate[], x: Scale, y: Scale): string[] {
  return points.map((point) => {
    const error = point.error ?? 0;
    return `<line class="held" x1="${at(x, point.x)}" x2="${at(x, point.x)}" y1="${at(y, point.y - error)}" y2="${at(y, point.y + error)}"/>`;
  });
}

function legend(): string[] {
  const entry = (style: string, label: string, offset: number) => [
    `<line class="${style}" x1="${PLOT.right - offset}" x2="${PLOT.right - offset + 20}" y1="18" y2="18"/>`,
    `<text x="${PLOT.right - offset + 26}" y="22">${label}</text>`,
  ];
  return [...entry("train", "train", 160), ...entry("held", "held-out", 84)];
}
