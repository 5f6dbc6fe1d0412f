/** The addon itself, without lib around it: jobs that outgrow memory, handles that are collected, odd arrays. */

import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import test, { type ExecutionContext } from "ava";
import { layoutNamed } from "../../lib/checkpoint/registry.js";
import type { NativeMaskedModel } from "../../lib/native/addon.js";
import { loadAddon } from "../../lib/native/load.js";
import { smallConfig } from "../support/small-model.js";

setFlagsFromString("--expose-gc");
const collectGarbage: () => void = runInNewContext("gc");

function loadModel(changes: Partial<typeof smallConfig> = {}): Promise<NativeMaskedModel> {
  const config = { ...smallConfig, ...changes };
  const tensors = layoutNamed("llada")
    .tensors(config)
    .map(({ canonical: name, shape }) => {
      const data = new Float32Array(shape.reduce((product, n) => product * n, 1)).fill(0.01);
      return { name, dtype: "f32" as const, shape: [...shape], data };
    });
  return loadAddon().addon.createEngine({ backend: "cpu", threads: 1 }).loadMasked(config, tensors, "f32");
}

const batchOf = (length: number) => ({ ids: new Int32Array(length), batch: 1, length });
const scored = (length: number) => ({ ...batchOf(length), targets: new Int32Array(length), excludedId: -1 });

async function refusal(t: ExecutionContext, code: string, attempt: () => Promise<unknown>) {
  const error = await t.throwsAsync<Error & { code: string }>(attempt);
  t.is(error?.code, code, error?.message);
}

test("a result that no memory could hold is refused; the engine goes on", async (t) => {
  const maxPositions = 1 << 22;
  const model = await loadModel({ vocabSize: 1 << 20, hiddenSize: 8, intermediateSize: 8, numLayers: 1, maxPositions });
  await refusal(t, "ERR_OUT_OF_MEMORY", () => model.forward({ ...batchOf(maxPositions), logits: true }));
  t.is((await model.losses(scored(4))).length, 4);
});

test("a promise settles though every handle was collected", async (t) => {
  const length = 512;
  const start = async () => {
    const model = await loadModel({ numLayers: 24 });
    return { losses: model.losses(scored(length)) };
  };
  const { losses } = await start();
  for (let round = 0; round < 5; round += 1) {
    collectGarbage();
    await sleep(2);
  }
  t.is((await losses).length, length);
});

test("shared arrays are copied, detached ones are empty", async (t) => {
  const model = await loadModel();
  const ids = new Int32Array(new SharedArrayBuffer(64));
  t.is((await model.losses({ ...scored(16), ids })).length, 16);
  const detached = new Int32Array(16);
  structuredClone(detached, { transfer: [detached.buffer] });
  await refusal(t, "ERR_INVALID_ARGUMENT", async () => model.losses({ ...scored(16), targets: detached }));
});
