/** A flow's text: every state on its way to noise. */

import type { Inspection, Level } from "../../flow/inspect.js";
import type { FlowModel } from "../../flow/model.js";
import { statesPicture } from "../../flow/picture.js";
import { percent } from "../columns.js";
import type { LookOptions, Shown, TextFlags } from "./text.js";

export async function states(
  model: FlowModel,
  { text, context }: Pick<TextFlags, "text" | "context">,
  options: LookOptions,
): Promise<Shown<Inspection>> {
  const found = await model.inspect(text, { ...options, ...(context !== undefined && { context }) });
  return {
    found,
    rows: [titles, ...found.levels.map(rowOf)],
    picture: (decode) => statesPicture(found, decode),
  };
}

const titles = ["state", "norm", "cosine", "directions", "moved", "log-det", "right", "sure", "reads as"];

function rowOf({ level, norm, cosine, participationRatio, centroidMove, logDet, reading }: Level): string[] {
  const total = logDet?.reduce((sum, nats) => sum + nats, 0);
  const sure = reading && reading.confidence.reduce((sum, p) => sum + p, 0) / reading.confidence.length;
  return [
    level === 0 ? "0 (text)" : String(level),
    norm.toFixed(2),
    cosine.toFixed(3),
    participationRatio.toFixed(1),
    level === 0 ? "" : centroidMove.toFixed(2),
    total?.toFixed(1) ?? "",
    percent(reading?.accuracy),
    percent(sure),
    reading?.text.replace(/\s+/g, " ") ?? "",
  ];
}
