import test from "ava";
import fc from "fast-check";
import { moves, weigh } from "../../../lib/decoding/conv.js";
import { Decoder, type DecodeTask } from "../../../lib/decoding/decoder.js";
import { highest } from "../../../lib/decoding/rank.js";
import { policies } from "../../../lib/decoding/registry.js";
import { resolveDecoding } from "../../../lib/decoding/resolve.js";
import { timeShareAt } from "../../../lib/decoding/schedule.js";
import type { NativeSession, PlanRequest } from "../../../lib/native/addon.js";
import { Rng } from "../../../lib/rng.js";
import { LogitsCancellation } from "../../../lib/verification/logits-session.js";
import { longestHold } from "../../support/event-loop.js";
import { canvas, runToy, toy } from "../../support/toy-model.js";

const rules = policies.map(({ name }) => name);
const forms = [...rules, { rule: "conv", form: "ancestral" as const }, { rule: "conv", temperature: 0.7, kernel: 5 }];

for (const decoding of forms) {
  const label = JSON.stringify(decoding);

  test(`${label}: leaves no masks and keeps the prompt`, async (t) => {
    const { ids, decoder } = await runToy({ decoding });
    t.deepEqual(ids[0]!.slice(0, 3), [1, 2, 3]);
    t.false(ids[0]!.includes(toy.maskId));
    t.true(decoder.sequences[0]!.finished);
    t.deepEqual(decoder.sequences[0]!.masked, []);
  });

  test(`${label}: a sequence does not depend on its batch`, async (t) => {
    const prompts = [
      [1, 2, 3],
      [4, 5, 6],
      [9, 9, 9],
    ];
    const seeds = [5n, 6n, 7n];
    const together = await runToy({ decoding, prompts, seeds });
    for (const [i, prompt] of prompts.entries()) {
      const alone = await runToy({ decoding, prompts: [prompt], seed: seeds[i]! });
      t.deepEqual(alone.ids[0], together.ids[i]);
      t.is(alone.decoder.sequences[0]!.passes, together.decoder.sequences[i]!.passes);
    }
  });

  test(`${label}: stops at the first end-of-text with only decided tokens before it`, async (t) => {
    const { decoder } = await runToy({ decoding, eosFrom: 7 });
    const [sequence] = decoder.sequences;
    t.is(sequence!.cut, 8);
    t.false([...sequence!.ids.slice(0, 8)].includes(toy.maskId));
  });
}

for (const rule of ["ancestral", "random"]) {
  test(`${rule}: one crossing gives what single steps give`, async (t) => {
    const prompts = [
      [1, 2],
      [3, 4],
    ];
    const steps: number[] = [];
    const plan = await runToy({ decoding: { rule, steps: 5 }, prompts, task: { onStep: (step) => steps.push(step) } });
    const stepwise = await runToy({ decoding: { rule, steps: 5 }, prompts, task: { stepwise: true } });
    t.deepEqual(plan.ids, stepwise.ids);
    t.deepEqual(steps, [0, 1, 2, 3, 4]);
    t.deepEqual(
      plan.decoder.sequences.map(({ confidence }) => [...confidence]),
      stepwise.decoder.sequences.map(({ confidence }) => [...confidence]),
    );
  });

  test(`${rule}: a plan is called off when the text has ended`, async (t) => {
    const cancellation = new LogitsCancellation();
    const run = { decoding: { rule, blockLength: 2 }, holes: 40, eosFrom: 6 };
    const { session, decoder } = await runToy({ ...run, task: { cancellation } });
    t.is(decoder.sequences[0]!.cut, 7);
    t.true(session.forwards < 12, `${session.forwards} passes`);
  });
}

test("the schedule's counts are kept: the remainder goes to the first steps", async (t) => {
  const counts: number[] = [];
  let before = 13;
  for (const rule of ["low-confidence", "entropy", "margin", "conv"]) {
    before = 13;
    counts.length = 0;
    const task = {
      onStep: () => {
        counts.push(before - current());
        before = current();
      },
    };
    let current = (): number => 13;
    const stepping = runToyWithHook({ rule, steps: 5 }, task, (read) => {
      current = read;
    });
    await stepping;
    t.deepEqual(counts, [3, 3, 3, 2, 2], rule);
  }
});

test("the schedule of time: the share that time goes on by, what is left in the last step", (t) => {
  // 24 masks, 8 steps: 24 (1 - s/t) = 2.997 and so on, each rounded down.
  let left = 24;
  const counts = Array.from({ length: 8 }, (_, i) => {
    const count = timeShareAt(left, 8, i);
    left -= count;
    return count;
  });
  t.deepEqual(counts, [2, 3, 3, 3, 3, 3, 3, 4]);
  t.is(timeShareAt(5, 1, 0), 5);
  t.throws(() => resolveDecoding({ schedule: "times" as "time" }), { code: "ERR_UNKNOWN_OPTION", message: /"time"/ });
});

test("entropy with the schedule of time: every step makes as many tokens as the schedule says", async (t) => {
  const { decoder, ids } = await runToy({ decoding: { rule: "entropy", schedule: "time", steps: 4 }, holes: 13 });
  t.false(ids[0]!.includes(toy.maskId));
  t.is(decoder.sequences[0]!.passes, 4);
});

/** runToy, with a reader of the number of masks for its step hook. */
async function runToyWithHook(
  decoding: { rule: string; steps: number },
  task: { onStep: () => void },
  expose: (read: () => number) => void,
): Promise<void> {
  const { Decoder } = await import("../../../lib/decoding/decoder.js");
  const { resolveDecoding } = await import("../../../lib/decoding/resolve.js");
  const { LogitsSession } = await import("../../../lib/verification/logits-session.js");
  const { canvas, toyLogits } = await import("../../support/toy-model.js");
  const ids = canvas([1, 2, 3], 13);
  const seeds = BigUint64Array.of(1n);
  const session = new LogitsSession({ batch: 1, length: 16, ids, seeds, logits: toyLogits(), maskId: toy.maskId });
  const settings = resolveDecoding(decoding);
  const starts = [{ ids, seed: 1n, eosFrom: 3 }];
  const decoder = new Decoder({ session, settings, starts, maskId: toy.maskId, eosId: toy.eosId, ...task });
  expose(() => decoder.sequences[0]!.masked.length);
  await decoder.run();
}

test("more steps than tokens cost no forward passes", async (t) => {
  const { session } = await runToy({ decoding: { rule: "low-confidence", steps: 50 } });
  t.is(session.forwards, 13);
});

test("blocks are finished one after the other", async (t) => {
  const order: number[] = [];
  await runToy({
    decoding: { rule: "low-confidence", blockLength: 4, stopAtEos: false },
    holes: 12,
    session: {
      logits: (ids) => {
        const masked = [...ids].flatMap((id, at) => (id === toy.maskId ? [at] : []));
        order.push(masked[0]!);
        // A mask at or after the next block's start means that no position beyond it was touched early.
        const block = Math.floor((masked[0]! - 3) / 4);
        t.true(masked.filter((at) => at >= 3 + (block + 1) * 4).length === 12 - (block + 1) * 4);
        return Array.from(ids, (_, at) => Float64Array.from({ length: 12 }, (_, v) => Math.sin(v + at)));
      },
    },
  });
  t.is(order.length, 12);
});

test("conv: with nothing known it ranks by confidence alone", async (t) => {
  const conv = await runToy({ decoding: { rule: "conv", steps: 1 }, prompts: [[]] });
  const plain = await runToy({ decoding: { rule: "low-confidence", steps: 1 }, prompts: [[]] });
  t.deepEqual(conv.ids, plain.ids);
  t.deepEqual(weigh(Float32Array.of(0.3, 0.2), Float32Array.of(0, 0)), Float32Array.of(0.3, 0.2));
});

test("conv, ancestral form: with nothing known it goes on as ancestral decoding", async (t) => {
  const { ids, session } = await runToy({ decoding: { form: "ancestral", steps: 6 }, prompts: [[]] });
  t.false(ids[0]!.includes(toy.maskId));
  t.true(session.forwards <= 7);
});

test("conv, ancestral form: what stays masked is filled in one more pass, and counted", async (t) => {
  const { decoder, session } = await runToy({
    decoding: { form: "ancestral", kernel: 3, steps: 2, candidates: 1 },
    holes: 30,
  });
  const [sequence] = decoder.sequences;
  t.true(sequence!.filled > 20);
  t.is(session.forwards, 3);
  const unfilled = await runToy({
    decoding: { form: "ancestral", kernel: 3, steps: 2, candidates: 1 },
    holes: 30,
    task: { fill: false },
  });
  t.is(unfilled.decoder.sequences[0]!.masked.length, sequence!.filled);
});

test("conv: the kernel is a quarter of the text, at most 128, and the multiplier follows it", (t) => {
  const asked = (options: object, length: number) => {
    const { policy } = resolveDecoding({ rule: "conv", ...options });
    const moment = { rng: new Rng(1n), step: 0, index: 0, of: 1, count: 1, positions: [], known: 1, length };
    return policy.kind === "closed" ? policy.ask(moment).neighbourhood : undefined;
  };
  t.deepEqual(asked({}, 2048), { kernel: 129, multiplier: 6 / 128, shape: "tanh" });
  t.deepEqual(asked({}, 160), { kernel: 41, multiplier: 6 / 40, shape: "tanh" });
  t.deepEqual(asked({}, 4), { kernel: 3, multiplier: 1, shape: "tanh" });
  t.deepEqual(asked({ kernel: 9, multiplier: 0.5, shape: "linear" }, 2048), {
    kernel: 9,
    multiplier: 0.5,
    shape: "linear",
  });
});

test("conv: times run from 1 to 1e-5 in f32", (t) => {
  t.deepEqual(moves({ index: 0, of: 10 }), {
    move: Math.fround(1 - Math.fround(1 - 0.099999)),
    stay: Math.fround(0.900001),
  });
  const last = moves({ index: 9, of: 10 });
  t.true(Math.abs(last.stay - 1e-5) < 1e-7);
});

test("guidance reaches the session", async (t) => {
  const decoding = { rule: "low-confidence", steps: 4 };
  const prompt = Uint8Array.from({ length: 16 }, (_, at) => (at < 3 ? 1 : 0));
  const plain = await runToy({ decoding });
  const guided = await runToy({ decoding, session: { guidance: { scale: 3, prompt } } });
  t.notDeepEqual(plain.ids, guided.ids);
});

test("threshold: everything at once at 0, one by one at 1", async (t) => {
  const all = await runToy({ decoding: { rule: "threshold", threshold: 0, blockLength: 100 } });
  t.is(all.session.forwards, 1);
  const single = await runToy({ decoding: { rule: "threshold", threshold: 1 } });
  t.is(single.session.forwards, 13);
});

test("the highest scores: ties to the lowest index, NaN last", (t) => {
  t.deepEqual(highest([1, 3, 3, 2], 3), [1, 2, 3]);
  t.deepEqual(highest([Number.NaN, Number.NEGATIVE_INFINITY, 0], 3), [2, 1, 0]);
  t.deepEqual(highest([], 2), []);
  fc.assert(
    fc.property(fc.array(fc.float()), fc.nat(20), (scores, count) => {
      const chosen = highest(scores, count);
      const rest = scores.filter((_, i) => !chosen.includes(i));
      return chosen.every((i) => rest.every((score) => !(score > scores[i]!)));
    }),
  );
});

test("any canvas, any rule: fixed tokens stay, holes are filled", async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 0, max: 11 }), { minLength: 1, maxLength: 24 }),
      fc.constantFrom(...rules),
      fc.integer({ min: 1, max: 9 }),
      async (ids, rule, blockLength) => {
        const start = Int32Array.from(ids);
        const { decoder } = await runToy({
          decoding: { rule, blockLength },
          session: { ids: start, length: start.length, batch: 1 },
          task: { starts: [{ ids: start, seed: 3n, eosFrom: -1 }] },
        });
        const made = decoder.sequences[0]!.ids;
        t.true(ids.every((id, at) => (id === toy.maskId ? made[at] !== toy.maskId : made[at] === id)));
      },
    ),
    { numRuns: 60 },
  );
});

test("a policy's draws are those of its seed", async (t) => {
  const [a, b, c] = await Promise.all([1n, 1n, 2n].map((seed) => runToy({ decoding: "random", seed })));
  t.deepEqual(a!.ids, b!.ids);
  t.notDeepEqual(a!.ids, c!.ids);
  t.is(typeof new Rng(1n).uniform(1, 0, 0, 0), "number");
});

/** A session that decides a plan's rows at once, and the decoder of a canvas on it. */
function planned(rule: string, { holes, steps, ...task }: { holes: number; steps?: number } & Partial<DecodeTask>) {
  const ids = canvas([1, 2], holes);
  const made = ids.slice();
  const plans: PlanRequest[] = [];
  const session: NativeSession = {
    step: () => Promise.reject(new Error("no steps here")),
    run: async (request) => {
      plans.push(request);
      for (const row of request.rows) made[row] = 5;
      const confidence = new Float32Array(request.rows.length);
      return { tokens: new Int32Array(request.rows.length).fill(5), confidence };
    },
    canvas: () => made,
    dispose: () => {},
  };
  const settings = resolveDecoding({ rule, ...(steps === undefined ? {} : { steps }) });
  const starts = [{ ids, seed: 1n, eosFrom: -1 }];
  return { plans, decoder: new Decoder({ session, settings, starts, maskId: toy.maskId, eosId: toy.eosId, ...task }) };
}

for (const rule of ["ancestral", "random"]) {
  test.serial(`${rule}: a long plan is laid out without holding the event loop`, async (t) => {
    const { plans, decoder } = planned(rule, { holes: 3000 });
    const { milliseconds } = await longestHold(() => decoder.run());
    t.true(milliseconds < 250, `${milliseconds} ms`);
    t.is(new Set(plans[0]!.rows).size, 3000);
    t.true(decoder.sequences[0]!.finished);
  });

  test.serial(`${rule}: as many steps as may be asked for`, async (t) => {
    const { plans, decoder } = planned(rule, { holes: 2, steps: 65536 });
    const { milliseconds } = await longestHold(() => decoder.run());
    t.true(milliseconds < 250, `${milliseconds} ms`);
    t.is(plans[0]!.rows.length, 2);
    t.true(plans[0]!.counts.at(-1)! > 0, "the steps after the last token are no part of the plan");
    t.true(decoder.sequences[0]!.finished);
  });

  test.serial(`${rule}: the laying out of a plan can be cancelled`, async (t) => {
    const { plans, decoder } = planned(rule, { holes: 3000, isCancelled: () => true });
    await t.throwsAsync(decoder.run(), { code: "ERR_ABORTED" });
    t.deepEqual(plans, []);
  });
}

test.serial("more steps than tokens: idle steps are passed over, and change nothing", async (t) => {
  for (const rule of ["conv", "random", "ancestral"]) {
    const reported: number[] = [];
    const run = {
      decoding: { rule, steps: 60_000 },
      task: { stepwise: true, onStep: (step: number, isIdle: boolean) => isIdle || reported.push(step) },
    };
    const { result, milliseconds } = await longestHold(() => runToy(run));
    t.true(milliseconds < 250, `${rule}: ${milliseconds} ms`);
    t.false(result.ids[0]!.includes(toy.maskId));
    t.true(result.decoder.sequences[0]!.finished);
    if (rule !== "ancestral") t.deepEqual(reported, [...Array(13).keys()]);
  }
});

test("the few highest scores are the first of all of them", (t) => {
  const scores = fc.array(fc.oneof(fc.float(), fc.constantFrom(0, 1, Number.NaN, Number.POSITIVE_INFINITY)));
  fc.assert(
    fc.property(scores, fc.nat(40), (values, count) => {
      t.deepEqual(highest(values, count), highest(values, Number.MAX_SAFE_INTEGER).slice(0, count));
    }),
  );
});
