/** A flow's text: every state on its way to noise. */

import type { Inspection, Level } from "../../flow/inspect.js";
import type { FlowModel } from "../../flow/model.js";
import { statesPicture } from "../../flow/picture.js";
import type { Shown } from "./text.js";

export async function states(model: FlowModel, text: string): Promise<Shown<Inspection>> {
  const found = await model.inspect(text);
  return {
    found,
    rows: [titles, ...found.levels.map(rowOf)],
    picture: (decode) => statesPicture(found, decode),
  };
}

const titles = ["state", "norm", "cosine", "directions", "log-det", "right", "reads as"];

function rowOf({ level, norm, cosine, participationRatio, logDet, reading }: Level): string[] {
  const total = logDet?.reduce((sum, nats) => sum + nats, 0);
  return [
    level === 0 ? "0 (text)" : String(level),
    norm.toFixed(2),
    cosine.toFixed(3),
    participationRatio.toFixed(1),
    total?.toFixed(1) ?? "",
    reading === undefined ? "" : `${(100 * reading.accuracy).toFixed(0)} %`,
    reading?.text.replace(/\s+/g, " ") ?? "",
  ];
}
