/** The engine's queue under load: what is refused, what never is, and what ends before its turn. */

import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import test from "ava";
import { createEngine, type Engine, type MaskedModel, type NoemaError } from "../../lib/index.js";
import { root } from "../support/files.js";
import { writeSmallModel } from "../support/small-model.js";

const folder = writeSmallModel();
/** Steps that are handed over together, as one native job. */
const long = { maxTokens: 480, decoding: { rule: "random", steps: 480 } } as const;
const stepwise = { maxTokens: 48, decoding: { rule: "low-confidence", steps: 48 } } as const;

async function opened(queueLimit: number): Promise<{ engine: Engine; model: MaskedModel }> {
  const engine = await createEngine({ threads: 1, queueLimit });
  return { engine, model: await engine.load(await folder, { family: "masked" }) };
}

/** The codes of what was refused; "" for what was not. */
async function codes(requests: readonly PromiseLike<unknown>[]): Promise<string[]> {
  const ends = await Promise.allSettled(requests);
  return ends.map((end) => (end.status === "rejected" ? (end.reason as NoemaError).code : ""));
}

test("a flood of requests: those without a place are refused at once, what has begun is not", async (t) => {
  const { engine, model } = await opened(4);
  await using _ = engine;
  const alone = await model.generate({ ...stepwise, seed: 3 });
  const begun = model.generate({ ...stepwise, seed: 3 });
  const scores = Array.from({ length: 600 }, (_, seed) => model.score("Once upon a time", { seed }));
  const refused = (await codes(scores)).filter((code) => code !== "");
  t.is(refused.length, 597);
  t.deepEqual([...new Set(refused)], ["ERR_QUEUE_FULL"]);
  t.deepEqual((await begun).ids, alone.ids);
  t.true((await model.score("Once upon a time")).nats > 0, "places are given back");
});

test("a look without a place is refused, its session goes on", async (t) => {
  const { engine, model } = await opened(2);
  await using _ = engine;
  const session = model.session({ ids: [1, null, null] });
  session.set([0], [2]);
  const looks = await codes(Array.from({ length: 3 }, () => session.look()));
  t.deepEqual(looks, ["", "", "ERR_QUEUE_FULL"]);
  const again = model.session({ ids: [2, null, null] });
  const [seen, expected] = [await session.look(), await again.look()];
  t.deepEqual(seen.confidence, expected.confidence);
});

test("what waits behind a long job and is aborted, or whose model is disposed of, ends at once", async (t) => {
  const { engine, model } = await opened(8);
  await using _ = engine;
  const other = await engine.load(await folder);
  const running = model.generate(long);
  let over = false;
  running.settled.then(() => {
    over = true;
  });
  while (!engine.stats().running) await setTimeout(1);
  const controller = new AbortController();
  const reason = new Error("no longer wanted");
  const { signal } = controller;
  const waiting = [
    model.score("Once", { signal }),
    engine.load(await folder, { signal }),
    model.generate({ ...stepwise, signal }),
  ];
  const disposed = other.generate(stepwise);
  setImmediate(() => {
    controller.abort(reason);
    other.dispose();
  });
  const ends = await Promise.allSettled([...waiting, disposed]);
  await other.settled;
  t.false(over, "the long job is still running");
  const reasons = ends.map((end) => end.status === "rejected" && end.reason);
  t.is(reasons[0], reason);
  t.is(reasons[1], reason);
  t.like(reasons[2], { code: "ERR_ABORTED", cause: reason });
  t.like(reasons[3], { code: "ERR_DISPOSED" });
  running.cancel();
  await running.settled;
  t.true((await model.score("Once")).nats > 0, "the queue goes on");
});

test("a load that was aborted before it began", async (t) => {
  const { engine } = await opened(1);
  await using _ = engine;
  const reason = new Error("too late");
  const error = await t.throwsAsync(async () => engine.load(await folder, { signal: AbortSignal.abort(reason) }));
  t.is(error, reason);
});

// Alone: other tests' memory would count as this engine's.
test.serial("working memory is told of, and goes back to the system with the engine", async (t) => {
  const engine = await createEngine({ threads: 1 });
  const model = await engine.load(join(root, "models/tales-masked"));
  await model.score(new Int32Array(4000).fill(3));
  const { arenaBytes } = engine.stats();
  t.true(arenaBytes > 1 << 25, `${arenaBytes} bytes: an allocator may keep smaller blocks`);
  model.dispose();
  const before = process.memoryUsage.rss();
  engine.dispose();
  const freed = () => before - process.memoryUsage.rss();
  for (let look = 0; look < 200 && freed() < arenaBytes / 2; look++) await setTimeout(20);
  t.true(freed() > arenaBytes / 2, `${freed()} of ${arenaBytes}`);
});
