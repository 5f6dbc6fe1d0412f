/** A flow's states, likelihoods, gradients, inverse and round trip. */

import type { FlowBatch, State } from "../native/addon.js";
import type { Golden } from "./golden.js";
import { type FlowCase, gradients, inputs, type Outcomes, type Recipe, values } from "./recipe.js";

export const flowArrays: Recipe = async function* (golden, loaded): Outcomes {
  if (loaded?.family !== "flow" || !golden.has("tokens")) return;
  yield* inputs(golden, ["tokens", "eps", "u_in"]);
  yield* encoding(golden, loaded);
  yield* gradientArrays(golden, loaded);
  yield* inverse(golden, loaded);
  yield* roundTrip(golden, loaded);
};

function floats(golden: Golden, name: string): Float32Array {
  return Float32Array.from(golden.floats(name));
}

function batchOf(golden: Golden, { config }: FlowCase): FlowBatch & { prefix: number } {
  const { shape } = golden.get("tokens");
  const positions = Number(golden.description.prefix_positions ?? 0);
  const [batch, length] = [shape[0]!, shape[1]!];
  return { ids: golden.ids("tokens"), batch, length, prefix: positions * config.patchSize };
}

async function* encoding(golden: Golden, loaded: FlowCase): Outcomes {
  const batch = batchOf(golden, loaded);
  const pass = await loaded.native.encode({ ...batch, noise: floats(golden, "eps"), states: true });
  yield values("z", pass.states![0]!);
  for (const [l, state] of pass.states!.entries()) yield values(`h.${l}`, state);
  for (const [l, logDet] of pass.logDet.entries()) yield values(`logdet.${l}`, logDet);
  const positions = pass.nelbo.length / batch.batch;
  yield values(
    "nelbo",
    Float64Array.from({ length: batch.batch }, (_, b) => {
      return pass.nelbo.subarray(b * positions, (b + 1) * positions).reduce((sum, nats) => sum + nats, 0);
    }),
  );
}

/** Of the mean over modelled tokens. */
async function* gradientArrays(golden: Golden, loaded: FlowCase): Outcomes {
  const { patchSize } = loaded.config;
  const batch = batchOf(golden, loaded);
  const tokens = batch.batch * (batch.length - batch.prefix);
  const weights = new Float32Array(tokens / patchSize).fill(1 / tokens);
  const trainer = await loaded.native.trainer({ keepAverage: false });
  try {
    await trainer.accumulate({ ...batch, noise: floats(golden, "eps"), weights });
    yield* gradients(golden, trainer, loaded);
  } finally {
    trainer.dispose();
  }
}

async function* inverse(golden: Golden, loaded: FlowCase): Outcomes {
  if (!golden.has("u_in")) return;
  const u = floats(golden, "u_in");
  const { states, tokens } = await descend(golden, loaded, u);
  for (const [l, state] of states.entries()) yield values(`inv.h.${l}`, state);
  yield values("inv.tokens", tokens);
}

/** Flow by flow from base noise to data: every state, 0 .. L - 1, and the tokens. */
async function descend(golden: Golden, loaded: FlowCase, u: Float32Array) {
  const batch = batchOf(golden, loaded);
  const states: Float64Array[] = [];
  let tokens = new Int32Array(0);
  let latents: State = u;
  for (let level = loaded.config.flows.length; level > 0; level--) {
    const found = await loaded.native.invert({ ...batch, latents, level, to: level - 1 });
    latents = found.state;
    tokens = found.tokens as Int32Array<ArrayBuffer>;
    states.unshift(found.state);
  }
  return { states, tokens };
}

/** From the expected noise back to latents at once, and from those to noise again. */
async function* roundTrip(golden: Golden, loaded: FlowCase): Outcomes {
  const last = `h.${loaded.config.flows.length}`;
  if (!golden.has(last)) return;
  const batch = batchOf(golden, loaded);
  const { tokens, state } = await loaded.native.invert({ ...batch, noise: floats(golden, last) });
  yield values("roundtrip.z", state);
  yield values("roundtrip.tokens", tokens);
  const again = await loaded.native.encode({ ...batch, latents: state, states: true });
  yield values("roundtrip.u", again.states!.at(-1)!);
}
