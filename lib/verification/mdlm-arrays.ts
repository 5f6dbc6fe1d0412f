/** MDLM's own arrays: corruption from given draws, SUBS log-probabilities, its loss and gradients. */

import type { Golden } from "./golden.js";
import { gradients, inputs, type MaskedCase, type Outcome, type Outcomes, type Recipe, values } from "./recipe.js";

/** Time of the last step; times lie between it and 1. */
const EPSILON = 1e-3;
/** What the published code takes for minus infinity. */
const NEVER = -1e6;

export const mdlmArrays: Recipe = async function* (golden, loaded): Outcomes {
  if (loaded?.family !== "masked" || loaded.config.layout !== "mdlm" || !golden.has("xt")) return;
  yield* inputs(golden, ["x0", "attention_mask", "u_t", "u_mask"]);
  yield* corruption(golden, loaded.config.maskTokenId);
  yield* forwardArrays(golden, loaded);
  yield* lossArrays(golden, loaded);
};

interface Shape {
  readonly batch: number;
  readonly length: number;
}

function shapeOf(golden: Golden): Shape {
  const [batch = 0, length = 0] = golden.get("x0").shape;
  return { batch, length };
}

/** Low-variance times, the noise of the log-linear schedule, and what it masks. */
function* corruption(golden: Golden, maskId: number): Generator<Outcome> {
  const { batch, length } = shapeOf(golden);
  const times = Float64Array.from(golden.floats("u_t"), (u, b) => (((u + b) / batch) % 1) * (1 - EPSILON) + EPSILON);
  const moves = times.map((t) => (1 - EPSILON) * t);
  yield values("t", times);
  yield values(
    "sigma",
    moves.map((move) => -Math.log1p(-move)),
  );
  yield values(
    "dsigma",
    moves.map((move) => (1 - EPSILON) / (1 - move)),
  );
  yield values("move_chance", moves);
  const chance = golden.floats("move_chance");
  const draws = golden.floats("u_mask");
  yield values(
    "xt",
    golden.ids("x0").map((id, i) => (draws[i]! < chance[Math.floor(i / length)]! ? maskId : id)),
  );
}

async function* forwardArrays(golden: Golden, { native, config }: MaskedCase): Outcomes {
  const { batch, length } = shapeOf(golden);
  const ids = golden.ids("xt");
  const { logits, hidden } = await native.forward({ ids, batch, length, logits: true, hidden: true });
  yield values("logits", logits!);
  const condition = hidden!.at(-1)!;
  yield values(
    "c",
    Float32Array.from({ length: batch * condition.length }, (_, i) => condition[i % condition.length]!),
  );
  for (let i = 0; i < config.numLayers; i++) yield values(`hidden.block.${i}`, hidden![1 + i]!);
  const V = config.vocabSize;
  // There the mask token's own is so far down that f32 has no digits for it.
  const skip = logits!.map((_, i) =>
    ids[Math.floor(i / V)] === config.maskTokenId && i % V === config.maskTokenId ? 1 : 0,
  );
  yield values("log_probs", logProbabilities(logits!, ids, config), skip);
}

/** SUBS: a masked position never stays masked, and one that is not is what it is. */
function logProbabilities(
  logits: Float32Array,
  ids: Int32Array,
  { vocabSize: V, maskTokenId }: { vocabSize: number; maskTokenId: number },
): Float32Array {
  const out = new Float32Array(logits.length).fill(NEVER);
  ids.forEach((id, row) => {
    if (id !== maskTokenId) {
      out[row * V + id] = 0;
      return;
    }
    const own = Float64Array.from(logits.subarray(row * V, (row + 1) * V));
    own[maskTokenId]! += NEVER;
    const most = own.reduce((a, b) => Math.max(a, b));
    const sum = Math.log(own.reduce((total, logit) => total + Math.exp(logit - most), 0));
    out.set(
      own.map((logit) => logit - most - sum),
      row * V,
    );
  });
  return out;
}

/** The weight of a masked token's loss, dsigma / (e^sigma - 1), by row. */
function weightsOf(golden: Golden): Float64Array {
  const { length } = shapeOf(golden);
  const [sigma, rate] = [golden.floats("sigma"), golden.floats("dsigma")];
  return Float64Array.from(golden.ids("x0"), (_, i) => {
    const b = Math.floor(i / length);
    return rate[b]! / Math.expm1(sigma[b]!);
  });
}

async function* lossArrays(golden: Golden, loaded: MaskedCase): Outcomes {
  const { native, config } = loaded;
  const shape = shapeOf(golden);
  const ids = golden.ids("xt");
  const targets = golden.ids("x0").map((id, i) => (ids[i] === config.maskTokenId ? id : -1));
  const scored = golden.ids("attention_mask");
  const count = scored.reduce((sum, one) => sum + one, 0);
  const weight = weightsOf(golden);
  const request = { ids, ...shape, targets, excludedId: config.maskTokenId };
  const losses = await native.losses(request);
  yield values(
    "loss_per_token",
    losses.map((loss, i) => loss * weight[i]!),
  );
  yield values(
    "nlls",
    losses.map((loss, i) => loss * weight[i]! * scored[i]!),
  );
  const trainer = await native.trainer({ keepAverage: false });
  try {
    const weights = Float32Array.from(weight, (one, i) => (targets[i]! < 0 ? 0 : (one * scored[i]!) / count));
    const { lossSum } = await trainer.accumulate({ ...request, weights });
    yield values("loss", [lossSum]);
    yield* gradients(golden, trainer, loaded);
  } finally {
    trainer.dispose();
  }
}
