import test from "ava";
import { NoemaError } from "../../lib/errors.js";
import type { Generation, GenerationEvent, GenerationResult } from "../../lib/generation.js";
import type { GenerateOptions, InfillOptions } from "../../lib/request.js";
import { fakeConfig, fakeModelOn, rejection } from "../support/fake-addon.js";

const prompt = "Once upon a time";

async function collect(events: AsyncIterable<GenerationEvent>): Promise<GenerationEvent[]> {
  const all: GenerationEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}

function textOf(events: readonly GenerationEvent[]): string {
  return events.map((event) => (event.type === "commit" ? event.text : "")).join("");
}

test("await and iterate tell the same", async (t) => {
  const { model } = await fakeModelOn();
  const generation = model.generate({ prompt, maxTokens: 20, decoding: "low-confidence" });
  const [result, events] = await Promise.all([generation, collect(generation)]);
  t.is(textOf(events), result.text);
  t.is(result.text, model.tokenizer!.decode(result.ids, { skipSpecialTokens: true }));
  t.is(result.ids.length, 20);
  t.deepEqual(result.usage, {
    promptTokens: model.tokenizer!.encode(prompt).length,
    completionTokens: 20,
    forwards: 20,
  });
  t.is(result.reason, "length");
  t.deepEqual(
    events.filter(({ type }) => type === "finish").map((event) => ({ ...event })),
    [{ type: "finish", reason: "length", usage: result.usage, timing: result.timing, filled: 0 }],
  );
  t.is(events.at(-1)?.type, "finish");
  t.deepEqual(
    events.flatMap((event) => (event.type === "commit" ? [...event.ids] : [])),
    [...result.ids],
  );
});

test("events can be read after the end, and twice", async (t) => {
  const { model } = await fakeModelOn();
  const generation = model.generate({ prompt, maxTokens: 5 });
  await generation;
  t.deepEqual(await collect(generation), await collect(generation));
});

test("refine events: opt-in, one per step, masks fall to none", async (t) => {
  const { model } = await fakeModelOn();
  for (const decoding of ["conv", "ancestral"]) {
    const options = { prompt, maxTokens: 12, decoding: { rule: decoding, steps: 4 } };
    const plain = await collect(model.generate(options));
    t.false(plain.some(({ type }) => type === "refine"));
    const generation = model.generate({ ...options, refine: true });
    const refines = (await collect(generation)).flatMap((event) => (event.type === "refine" ? [event] : []));
    t.deepEqual(
      refines.map(({ step }) => step),
      [0, 1, 2, 3],
    );
    const masks = refines.map(({ mask }) => mask.reduce((sum, m) => sum + m, 0));
    t.deepEqual(
      masks,
      [...masks].sort((a, b) => b - a),
    );
    t.is(masks.at(-1), 0);
    t.false([...refines.at(-1)!.ids].includes(fakeConfig.maskTokenId));
    t.is(textOf(plain), (await generation).text);
    t.true(refines.every(({ confidence }) => confidence.every((p) => p >= 0 && p <= 1)));
  }
});

test("refine events say what the text were if all proposals held", async (t) => {
  const drafts = async (generation: Generation) =>
    (await collect(generation)).flatMap((event) => (event.type === "refine" ? [event] : []));
  const { model } = await fakeModelOn();
  const whole = model.generate({ prompt, maxTokens: 12, decoding: { steps: 3 }, refine: true });
  const given = model.tokenizer!.encode(prompt).length;
  for (const { ids, text } of await drafts(whole))
    t.is(text, model.tokenizer!.decode(ids.slice(given), { skipSpecialTokens: true }));
  const [last] = (await drafts(whole)).slice(-1);
  t.is(last!.text, (await whole).text);
  t.is(JSON.parse(JSON.stringify(last)).text, last!.text);
  const infill = model.infill({ text: "The cat [mask:3] home.", refine: true });
  t.is((await drafts(infill)).at(-1)!.text, (await infill).text);
  const ended = await fakeModelOn({ eosFrom: 9 });
  const short = ended.model.generate({ prompt, maxTokens: 30, decoding: { steps: 1 }, refine: true });
  t.is((await drafts(short)).at(-1)!.text, (await short).text);
  t.is((await short).reason, "eos");
});

test("end-of-text cuts the text and is no part of it", async (t) => {
  const { model } = await fakeModelOn({ eosFrom: 9 });
  for (const decoding of ["conv", "threshold", "ancestral"]) {
    const result = await model.generate({ prompt, maxTokens: 30, decoding });
    t.is(result.reason, "eos");
    t.is(result.ids.length, 9 - result.usage.promptTokens);
    t.false([...result.ids].includes(0));
  }
  const whole = await model.generate({ prompt, maxTokens: 30, decoding: { stopAtEos: false } });
  t.is(whole.reason, "length");
  t.is(whole.ids.length, 30);
});

test("an end-of-text token at once: empty text", async (t) => {
  const { model } = await fakeModelOn({ eosFrom: 0 });
  const result = await model.generate({ prompt, maxTokens: 8, decoding: "semi-autoregressive" });
  t.is(result.text, "");
  t.is(result.reason, "eos");
});

test("no prompt: the text starts after an end-of-text token", async (t) => {
  const { model } = await fakeModelOn();
  const result = await model.generate({ maxTokens: 4 });
  t.is(result.usage.promptTokens, 1);
  const same = await model.generate({ prompt: "", maxTokens: 4, documentStart: true });
  t.deepEqual(same.ids, result.ids);
  const bare = await model.generate({ maxTokens: 4, documentStart: false });
  t.is(bare.usage.promptTokens, 0);
});

test("no new tokens: done at once, without a pass", async (t) => {
  const { model, log } = await fakeModelOn();
  const events = await collect(model.generate({ prompt, maxTokens: 0, refine: true }));
  t.deepEqual(
    events.map(({ type }) => type),
    ["finish"],
  );
  t.is(log.forwards, 0);
});

test("maxTokens defaults to what fits", async (t) => {
  const { model } = await fakeModelOn();
  const result = await model.generate({ prompt, decoding: { rule: "random", steps: 2 } });
  t.is(result.usage.promptTokens + result.ids.length, fakeConfig.maxPositions);
});

test("special tokens written out in a prompt are text", async (t) => {
  const { model } = await fakeModelOn();
  const { usage } = await model.generate({ prompt: "<|mask|><|endoftext|>", maxTokens: 1 });
  t.true(usage.promptTokens > 4);
});

test("prompts by token ids, and characters that need several tokens", async (t) => {
  const { model } = await fakeModelOn();
  const ids = model.tokenizer!.encode(prompt);
  const options = { maxTokens: 6, seed: 3, decoding: "random" };
  t.deepEqual(
    (await model.generate({ prompt: ids, ...options })).ids,
    (await model.generate({ prompt, ...options })).ids,
  );
  // Lone bytes of characters: nothing but whole characters and replacements may come out, and all of them in the end.
  const bytes = await fakeModelOn({ always: model.tokenizer!.idOf("Ã")! });
  const generation = bytes.model.generate({ prompt, maxTokens: 6, decoding: { blockLength: 1 } });
  t.is(textOf(await collect(generation)), (await generation).text);
  t.is((await generation).text, "\ufffd".repeat(6));
});

const refused: [string, unknown, string, RegExp][] = [
  ["an unknown option", { promt: "x" }, "ERR_UNKNOWN_OPTION", /did you mean "prompt"/],
  ["a decoding option in the wrong place", { temperature: 1 }, "ERR_UNKNOWN_OPTION", /decoding: \{ temperature/],
  ["an unknown rule", { decoding: "convo" }, "ERR_UNKNOWN_OPTION", /did you mean "conv"/],
  ["no object", null, "ERR_INVALID_ARGUMENT", /an object/],
  ["a long prompt", { prompt: "word ".repeat(80), maxTokens: 1 }, "ERR_PROMPT_TOO_LONG", /the model has 64/],
  ["a long prompt without maxTokens", { prompt: "word ".repeat(80) }, "ERR_PROMPT_TOO_LONG", /positions/],
  ["a prompt too long to tokenise", { prompt: " ".repeat(1e7) }, "ERR_PROMPT_TOO_LONG", /at least \d+ tokens/],
  ["more ids than positions", { prompt: new Float64Array(2e7).fill(-1) }, "ERR_PROMPT_TOO_LONG", /has 20000000 tokens/],
  ["many new tokens", { maxTokens: 1e9 }, "ERR_PROMPT_TOO_LONG", /positions/],
  ["a negative number of tokens", { maxTokens: -1 }, "ERR_INVALID_ARGUMENT", /maxTokens/],
  ["half a token", { maxTokens: 0.5 }, "ERR_INVALID_ARGUMENT", /an integer/],
  ["a prompt of the wrong type", { prompt: 3 }, "ERR_INVALID_ARGUMENT", /prompt/],
  ["an id outside of the vocabulary", { prompt: [4096] }, "ERR_INVALID_ARGUMENT", /prompt\[0\]/],
  ["an id that is none", { prompt: [1.5] }, "ERR_INVALID_ARGUMENT", /prompt\[0\]/],
  ["a mask in a prompt", { prompt: [5, 1] }, "ERR_INVALID_ARGUMENT", /infill/],
  ["a seed that is none", { seed: -1 }, "ERR_INVALID_ARGUMENT", /seed/],
  ["a signal that is none", { signal: {} }, "ERR_INVALID_ARGUMENT", /AbortSignal/],
  ["a flag that is none", { refine: "yes" }, "ERR_INVALID_ARGUMENT", /true or false/],
  ["fewer steps than blocks", { decoding: { blockLength: 1, steps: 2 } }, "ERR_INVALID_ARGUMENT", /blocks/],
];
for (const [name, options, code, message] of refused) {
  test(`refused, by awaiting and by iterating: ${name}`, async (t) => {
    const { model, log } = await fakeModelOn();
    const generation = model.generate(options as GenerateOptions);
    const error = await t.throwsAsync(async () => generation, { instanceOf: NoemaError, message });
    t.is(error?.code, code as NoemaError["code"]);
    await t.throwsAsync(() => collect(model.generate(options as GenerateOptions)), { message });
    t.is(log.openSessions, 0);
  });
}

test("infill: given text stays, holes are filled", async (t) => {
  const { model } = await fakeModelOn();
  const text = "The cat [mask:3] on the mat and[mask] home.";
  const generation = model.infill({ text, seed: 2, decoding: "ancestral" });
  const [result, events] = await Promise.all([generation, collect(generation)]);
  t.true(result.text.startsWith("The cat "));
  t.true(result.text.endsWith(" home."));
  t.true(result.text.includes(" on the mat and"));
  t.is(textOf(events), result.text);
  const encode = (part: string): number => model.tokenizer!.encode(part).length;
  t.is(result.ids.length, encode("The cat ") + 3 + encode(" on the mat and") + 1 + encode(" home."));
  t.is(result.usage.promptTokens, result.ids.length - 4);
});

test("infill by ids; a text without holes comes back", async (t) => {
  const { model, log } = await fakeModelOn();
  const result = await model.infill({ ids: [40, null, 41, 1, 42] });
  t.deepEqual([result.ids[0], result.ids[2], result.ids[4]], [40, 41, 42]);
  t.is(log.sessions, 1);
  t.is((await model.infill({ text: "no holes" })).text, "no holes");
  t.is((await model.infill({ text: "" })).text, "");
  t.is(log.sessions, 1);
});

const refusedInfills: [string, unknown, RegExp][] = [
  ["nothing", {}, /either text or ids/],
  ["both", { text: "a", ids: [3] }, /either text or ids/],
  ["a huge hole", { text: "a[mask:999999]" }, /positions/],
  ["a text of the wrong type", { text: 4 }, /a string/],
  ["ids of the wrong type", { ids: "abc" }, /a list/],
  ["more ids than positions", { ids: new Float64Array(2e7).fill(-1) }, /^ids has 20000000 tokens; the model has 64/],
  ["a prompt", { prompt: "x" }, /unknown/],
];
for (const [name, options, message] of refusedInfills) {
  test(`infill refuses ${name}`, async (t) => {
    const { model } = await fakeModelOn();
    await t.throwsAsync(async () => model.infill(options as InfillOptions), { instanceOf: NoemaError, message });
  });
}

test("a batch gives what each prompt alone gives, with seeds counting up", async (t) => {
  const { model } = await fakeModelOn();
  const prompts = ["One", "Once upon a time there was", "Two", "The end of all", ""];
  for (const decoding of ["conv", "ancestral", { rule: "conv", form: "ancestral" as const }]) {
    const shared = { maxTokens: 7, decoding };
    const batch = await model.generateBatch({ prompts, seed: 2n ** 64n - 2n, ...shared });
    for (const [i, prompt] of prompts.entries()) {
      const seed = BigInt.asUintN(64, 2n ** 64n - 2n + BigInt(i));
      const alone = await model.generate({ prompt, seed, ...shared });
      t.deepEqual({ ...alone, timing: 0 }, { ...batch[i]!, timing: 0 });
    }
  }
  t.deepEqual(await model.generateBatch({ prompts: [] }), []);
  await t.throwsAsync(model.generateBatch({ prompts: ["One", [9999]] }), { message: /^prompts\[1\]\[0\]: expected/ });
  for (const long of ["word ".repeat(80), " ".repeat(1e7)])
    await t.throwsAsync(model.generateBatch({ prompts: ["One", long] }), {
      code: "ERR_PROMPT_TOO_LONG",
      message: /^prompts\[1\]/,
    });
});

test("a large batch is cut into sessions", async (t) => {
  const { model, log } = await fakeModelOn();
  const results = await model.generateBatch({
    prompts: new Array(40).fill("One"),
    maxTokens: 2,
    decoding: { steps: 1 },
  });
  t.is(results.length, 40);
  t.is(log.sessions, 3);
  t.is(log.openSessions, 0);
});

test("abort at any step: an error of its own, with the signal's reason and what was made so far", async (t) => {
  const rules = ["conv", "ancestral", "threshold", { rule: "conv", form: "ancestral" as const }];
  for (let step = 0; step < 14; step++) {
    for (const decoding of rules) {
      const controller = new AbortController();
      const reason = new Error(`enough at ${step}`);
      const onForward = (pass: number): void => {
        if (pass === step) controller.abort(reason);
      };
      const { model, log } = await fakeModelOn({ onForward });
      const generation = model.generate({ prompt, maxTokens: 12, decoding, signal: controller.signal });
      const outcome = await generation.then(
        (result) => result,
        (error) => {
          t.like(error, { code: "ERR_ABORTED", cause: reason });
          t.deepEqual(Object.getOwnPropertyNames(reason), ["stack", "message"], "the caller's object stays as it is");
          const { partial } = error as { partial: GenerationResult };
          t.is(partial.reason, "abort");
          t.deepEqual(partial, generation.partial);
          return partial;
        },
      );
      t.is(outcome.reason === "abort", controller.signal.aborted, JSON.stringify({ step, decoding }));
      // A character that lacks bytes is held back until they come.
      const whole = model.tokenizer!.decode(outcome.ids, { skipSpecialTokens: true });
      t.is(outcome.text.replace(/\ufffd$/, ""), whole.replace(/\ufffd$/, ""));
      t.is(log.openSessions, 0);
    }
  }
});

test("what was made before an abort is a prefix of the whole", async (t) => {
  const whole = await (await fakeModelOn()).model.generate({ prompt, maxTokens: 12, decoding: { blockLength: 1 } });
  const controller = new AbortController();
  const { model } = await fakeModelOn({ onForward: (pass) => void (pass === 8 && controller.abort()) });
  const options = { prompt, maxTokens: 12, decoding: { blockLength: 1 }, signal: controller.signal };
  const error = await rejection<Error & { partial: GenerationResult }>(model.generate(options));
  t.is(error.cause, controller.signal.reason);
  t.deepEqual([...error.partial.ids], [...whole.ids.slice(0, 8)]);
});

test("a signal that was aborted before: nothing runs", async (t) => {
  const { model, log } = await fakeModelOn();
  const signal = AbortSignal.abort("a reason of any type");
  const seen = await rejection<NoemaError & { partial: GenerationResult }>(model.generate({ prompt, signal }));
  t.like(seen, { code: "ERR_ABORTED", cause: "a reason of any type" });
  t.is(seen.message, "a reason of any type");
  t.is(seen.partial.reason, "abort");
  t.is(log.sessions, 0);
  const batch = model.generateBatch({ prompts: [prompt], signal: AbortSignal.abort() });
  t.is((await rejection<Error & { cause: Error }>(batch)).cause.name, "AbortError");
});

test("one signal for several calls: each error has what its own call made, and the reason has nothing", async (t) => {
  const controller = new AbortController();
  const { model } = await fakeModelOn({ onForward: (pass) => void (pass === 9 && controller.abort()) });
  const { signal } = controller;
  const options = { maxTokens: 12, decoding: { blockLength: 1 }, signal };
  const calls = [model.generate({ prompt: "One", ...options }), model.generate({ prompt: "Two words", ...options })];
  const errors = await Promise.all(calls.map((call) => rejection<{ cause: unknown; partial: GenerationResult }>(call)));
  for (const [i, { cause, partial }] of errors.entries()) {
    t.is(cause, signal.reason);
    t.deepEqual(partial, calls[i]!.partial);
  }
  t.not(errors[0]!.partial.usage.promptTokens, errors[1]!.partial.usage.promptTokens);
  t.false("partial" in signal.reason);
});

test("a cause of one's own is left as it is; one of noema's gives its code", async (t) => {
  const { model } = await fakeModelOn();
  for (const [cause, code] of [
    [Object.freeze(new Error("mine")), "ERR_ABORTED"],
    [new NoemaError("ERR_QUEUE_FULL", "no room", { most: 3 }), "ERR_QUEUE_FULL"],
  ] as const) {
    const generation = model.generate({ prompt, maxTokens: 12 });
    generation.cancel(cause);
    const error = await rejection<NoemaError>(generation);
    t.like(error, { code, cause, details: cause instanceof NoemaError ? cause.details : {} });
    t.false("partial" in cause);
  }
});

test("an aborted batch tells what there is", async (t) => {
  const controller = new AbortController();
  const { model, log } = await fakeModelOn({ onForward: (pass) => void (pass === 9 && controller.abort()) });
  const prompts = ["One", "Once upon a time there was"];
  const batch = model.generateBatch({ prompts, maxTokens: 7, signal: controller.signal });
  const error = await rejection<Error & { partial: GenerationResult[] }>(batch);
  t.deepEqual(
    error.partial.map(({ reason }) => reason),
    ["length", "abort"],
  );
  t.is(log.openSessions, 0);
});

test("leaving the loop early cancels", async (t) => {
  const { model, log } = await fakeModelOn();
  const generation = model.generate({ prompt, maxTokens: 30, decoding: { blockLength: 1 } });
  for await (const event of generation) if (event.type === "commit") break;
  await generation.settled;
  t.true(log.forwards < 5, `${log.forwards} passes`);
  t.is(log.openSessions, 0);
  const error = await t.throwsAsync(async () => generation, { instanceOf: NoemaError });
  t.is(error?.code, "ERR_ABORTED");
});

test("an error inside the loop cancels too, and is the one that is seen", async (t) => {
  const { model, log } = await fakeModelOn();
  const generation = model.generate({ prompt, maxTokens: 30, refine: true });
  await t.throwsAsync(
    async () => {
      for await (const _ of generation) throw new Error("mine");
    },
    { message: "mine" },
  );
  await generation.settled;
  t.is(log.openSessions, 0);
});

test("the event loop turns while a generation runs", async (t) => {
  const { model } = await fakeModelOn();
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  await model.generate({ prompt, maxTokens: 40 });
  clearInterval(timer);
  t.true(turns > 3);
});

test("infill: more holes than positions, and more text, are refused before they are laid out", async (t) => {
  const { model } = await fakeModelOn();
  for (const text of ["[mask:999999]".repeat(100_000), `${"a ".repeat(200_000)}[mask]`]) {
    await t.throwsAsync(async () => model.infill({ text }), { code: "ERR_PROMPT_TOO_LONG" });
  }
});
