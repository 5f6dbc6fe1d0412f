/** Logits, hidden states, losses and gradients of a checkpoint in LLaDA's or Dream's layout. */

import type { Batch } from "../native/addon.js";
import type { Golden } from "./golden.js";
import { gradients, inputs, type MaskedCase, type Outcome, type Outcomes, type Recipe, values } from "./recipe.js";

export const modelArrays: Recipe = async function* (golden, loaded): Outcomes {
  if (loaded?.family !== "masked") return;
  for (const name of golden.arrays.keys()) {
    if (/(^|\.)input_ids$/.test(name)) yield* forwardArrays(golden, loaded, name.slice(0, -"input_ids".length));
  }
  if (golden.has("train.x0")) yield* trainArrays(golden, loaded);
  if (golden.has("sft.noisy")) yield* sftArrays(golden, loaded);
};

function batchOf(golden: Golden, name: string): Batch {
  const { shape } = golden.get(name);
  return { ids: golden.ids(name), batch: shape[0]!, length: shape[1]! };
}

/** Everything named after `input_ids` with the same prefix. */
async function* forwardArrays(golden: Golden, { native, config }: MaskedCase, prefix: string): Outcomes {
  const batch = batchOf(golden, `${prefix}input_ids`);
  yield* inputs(golden, [`${prefix}input_ids`, `${prefix}attention_mask`, `${prefix}position_ids`]);
  const wanted = [...golden.arrays.keys()].filter((name) => name.startsWith(`${prefix}hidden.`));
  const mask = golden.has(`${prefix}attention_mask`) ? golden.ids(`${prefix}attention_mask`) : undefined;
  const ranges = mask ? keyRanges(mask, batch) : {};
  if (!ranges) {
    const reason = "the attention mask has holes, which key ranges cannot say";
    for (const name of [...wanted, `${prefix}logits`]) yield { kind: "skipped", name, reason };
    return;
  }
  const { logits, hidden } = await native.forward({ ...batch, ...ranges, logits: true, hidden: wanted.length > 0 });
  // Where a query at padding sees nothing, the published code's numbers mean nothing.
  const visible = config.layout === "dream" ? mask : undefined;
  const skip = visible && logits!.map((_, i) => 1 - visible[Math.floor(i / config.vocabSize)]!);
  yield values(`${prefix}logits`, logits!, skip);
  yield values(`${prefix}logits_shifted`, shifted(logits!, batch));
  for (const name of wanted) {
    const states = hidden![hiddenIndex(name.slice(`${prefix}hidden.`.length), hidden!.length)];
    if (states) yield values(name, states);
  }
}

/** The prediction for each position where outputs predict the next one; the first keeps its own. */
function shifted(logits: Float32Array, { batch, length }: Batch): Float32Array {
  const V = logits.length / (batch * length);
  const rowOf = (row: number): number => (row % length === 0 ? row : row - 1);
  return logits.map((_, i) => logits[rowOf(Math.floor(i / V)) * V + (i % V)]!);
}

/** Native order: the embedding, the stream after each block, the final norm. */
function hiddenIndex(name: string, count: number): number {
  if (name === "embed") return 0;
  if (name === "final_norm") return count - 1;
  const block = /^block\.(\d+)$/.exec(name);
  return block && Number(block[1]) < count - 2 ? 1 + Number(block[1]) : -1;
}

/** The keys that a 0/1 mask shows, as one range per sequence; undefined when it has holes. */
function keyRanges(mask: Int32Array, { batch, length }: Batch): Pick<Batch, "keyStart" | "keyEnd"> | undefined {
  const rows = Array.from({ length: batch }, (_, b) => mask.slice(b * length, (b + 1) * length));
  const keyStart = Int32Array.from(rows, (row) => Math.max(0, row.indexOf(1)));
  const keyEnd = Int32Array.from(rows, (row) => row.lastIndexOf(1) + 1);
  const whole = rows.every((row, b) => row.slice(keyStart[b], keyEnd[b]).every((bit) => bit === 1));
  return whole ? { keyStart, keyEnd } : undefined;
}

async function* trainArrays(golden: Golden, loaded: MaskedCase): Outcomes {
  const { native, config } = loaded;
  const { batch, length } = batchOf(golden, "train.x0");
  yield* inputs(golden, ["train.x0", "train.u_t", "train.u_mask"]);
  yield* corruption(golden, config.maskTokenId, length);
  const clean = golden.ids("train.x0");
  const noisy = golden.ids("train.noisy");
  const masked = golden.get("train.masked").values;
  const targets = clean.map((id, i) => (masked[i] ? id : -1));
  const chance = golden.floats("train.p_mask");
  const weights = Float32Array.from(targets, (id, i) => (id < 0 ? 0 : 1 / (chance[i]! * batch * length)));
  const trainer = await native.trainer({ keepAverage: false });
  try {
    const request = { ids: noisy, batch, length, targets, weights, excludedId: -1 };
    const { lossSum, tokenLoss } = await trainer.accumulate(request);
    yield values("train.loss", [lossSum]);
    yield values("train.token_loss", weighted(tokenLoss, targets, chance));
    yield* gradients(golden, trainer, loaded);
  } finally {
    trainer.dispose();
  }
}

/** Losses of scored rows over the probability of being masked, in row order. */
function weighted(losses: Float32Array, targets: Int32Array, chance: ArrayLike<number>): number[] {
  return [...targets].flatMap((id, i) => (id < 0 ? [] : [losses[i]! / chance[i]!]));
}

/** p_mask, masked and noisy follow from the draws. */
function* corruption(golden: Golden, maskId: number, length: number): Generator<Outcome> {
  const time = golden.floats("train.u_t");
  const draws = golden.floats("train.u_mask");
  const chance = Float32Array.from(draws, (_, i) => {
    const t = time[Math.floor(i / length)]!;
    return Math.fround(Math.fround((1 - 1e-3) * t) + 1e-3);
  });
  const given = golden.floats("train.p_mask");
  const masked = Uint8Array.from(draws, (u, i) => (u < given[i]! ? 1 : 0));
  yield values("train.p_mask", chance);
  yield values("train.masked", masked);
  yield values(
    "train.noisy",
    golden.ids("train.x0").map((id, i) => (masked[i] ? maskId : id)),
  );
}

async function* sftArrays(golden: Golden, { native, config }: MaskedCase): Outcomes {
  const { batch, length } = batchOf(golden, "train.x0");
  yield* inputs(golden, ["sft.prompt_lengths"]);
  const prompts = golden.ids("sft.prompt_lengths");
  const clean = golden.ids("train.x0");
  const noisy = golden.ids("train.noisy").map((id, i) => {
    return i % length < prompts[Math.floor(i / length)]! ? clean[i]! : id;
  });
  yield values("sft.noisy", noisy);
  const targets = clean.map((id, i) => (noisy[i] === config.maskTokenId ? id : -1));
  const losses = await native.losses({ ids: noisy, batch, length, targets, excludedId: -1 });
  const chance = golden.floats("train.p_mask");
  yield values("sft.token_loss", weighted(losses, targets, chance));
  const answers = Float64Array.from(targets, (_, i) => length - prompts[Math.floor(i / length)]!);
  const loss = targets.reduce((sum, id, i) => sum + (id < 0 ? 0 : losses[i]! / chance[i]! / answers[i]!), 0);
  yield values("sft.loss", [loss / batch]);
}
