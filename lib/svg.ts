/** What the pictures share: self-contained SVG that reads well on light and dark ground. */

export interface Picture {
  width: number;
  height: number;
  /** For those who cannot see it. */
  title: string;
  /** CSS. Mid-tone colours and translucent greys have contrast on white and on near-black. */
  style: string;
}

/** A whole file of these elements. */
export function svg({ width, height, title, style }: Picture, elements: readonly string[]): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escapeXml(title)}">`,
    `<style>\n${style}\n</style>`,
    ...elements,
    "</svg>",
    "",
  ].join("\n");
}

/** Text as an SVG holds it, in elements and in attributes. */
export function escapeXml(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** A token as a label: short, and without what has no place in a line: bytes of a character, line ends and their like. */
export function label(token: string, most = 10): string {
  const clipped = token.length > most ? `${token.slice(0, most - 1)}…` : token;
  return escapeXml(clipped.replace(/[^\P{C}]/gu, " "));
}

/** An axis: values, and the pixels that they are at. */
export interface Scale {
  from: number;
  to: number;
  /** Pixels at `from` and at `to`. */
  begin: number;
  end: number;
}

export interface Point {
  x: number;
  y: number;
}

export function at(scale: Scale, value: number): string {
  const fraction = (value - scale.from) / (scale.to - scale.from);
  return (scale.begin + fraction * (scale.end - scale.begin)).toFixed(1);
}

/** What an axis has to span, never nothing. */
export function range(values: readonly number[]): { from: number; to: number } {
  const finite = values.filter(Number.isFinite);
  if (finite.length === 0) return { from: 0, to: 1 };
  const from = finite.reduce((least, value) => Math.min(least, value));
  const to = finite.reduce((most, value) => Math.max(most, value));
  return from === to ? { from: from - 0.5, to: to + 0.5 } : { from, to };
}

/** About five round numbers (1, 2 or 5 times a power of ten apart) inside the range. */
export function ticks(from: number, to: number): number[] {
  const rough = (to - from) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const first = Math.ceil(from / step - 1e-9);
  const last = Math.floor(to / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

export function line(points: readonly Point[], { x, y }: { x: Scale; y: Scale }, style: string): string {
  const drawn = points.filter((point) => Number.isFinite(point.y));
  return `<polyline class="${style}" points="${drawn.map((point) => `${at(x, point.x)},${at(y, point.y)}`).join(" ")}"/>`;
}
