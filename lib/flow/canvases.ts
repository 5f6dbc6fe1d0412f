/** What texts of one shape are made from, as a native call takes it. */

import type { FlowConfig } from "../checkpoint/config.js";
import type { AncestralDraw, InverseRequest } from "../native/addon.js";
import { latentNoise } from "../normals.js";
import type { FlowCanvas } from "./request.js";

/** In one call: prefixes of one length, as many tokens to add. */
export interface CanvasRequest {
  ids: Int32Array;
  batch: number;
  length: number;
  prefix: number;
  noise: Float32Array;
  ancestral?: NonNullable<InverseRequest["ancestral"]>;
}

/** All canvases have prefixes of one length and add as many tokens. `ancestral`: how the flow nearest the noise is drawn from, if it is. */
export function requestOf(
  canvases: readonly FlowCanvas[],
  config: FlowConfig,
  ancestral: AncestralDraw | undefined,
): CanvasRequest {
  const [{ prefix, added }] = canvases as readonly [FlowCanvas];
  const batch = canvases.length;
  const length = prefix.length + added;
  const ids = new Int32Array(batch * length);
  const values = added * config.latentSize;
  const noise = new Float32Array(batch * values);
  for (const [b, canvas] of canvases.entries()) {
    ids.set(canvas.prefix, b * length);
    noise.set(latentNoise(canvas.seed, values, ancestral ? 1 : canvas.temperature), b * values);
  }
  const seeds = BigUint64Array.from(canvases, ({ seed }) => seed);
  return { ids, batch, length, prefix: prefix.length, noise, ...(ancestral && { ancestral: { ...ancestral, seeds } }) };
}
