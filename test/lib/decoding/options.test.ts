import test from "ava";
import { sharedOptions } from "../../../lib/decoding/options.js";
import { policies } from "../../../lib/decoding/registry.js";
import type { DecodingOptions } from "../../../lib/decoding/resolve.js";
import { resolveDecoding } from "../../../lib/decoding/resolve.js";
import { blocksOf, share } from "../../../lib/decoding/schedule.js";
import { NoemaError } from "../../../lib/errors.js";

const refusals: [string, unknown, string, RegExp][] = [
  ["a misspelt rule", "semi-autoregresive", "ERR_UNKNOWN_OPTION", /did you mean "semi-autoregressive"/],
  ["a misspelt option", { rule: "conv", kernal: 9 }, "ERR_UNKNOWN_OPTION", /"kernal"; did you mean "kernel"/],
  ["another rule's option", { rule: "random", threshold: 0.5 }, "ERR_UNKNOWN_OPTION", /"threshold"/],
  ["a misspelt rule key", { rul: "conv" }, "ERR_UNKNOWN_OPTION", /did you mean "rule"/],
  ["a misspelt choice", { rule: "conv", form: "ancestrall" }, "ERR_UNKNOWN_OPTION", /did you mean "ancestral"/],
  ["a choice of the wrong type", { rule: "conv", form: 3 }, "ERR_INVALID_ARGUMENT", /confidence, ancestral/],
  ["no object", null, "ERR_INVALID_ARGUMENT", /name of a rule/],
  ["a rule of the wrong type", { rule: 3 }, "ERR_INVALID_ARGUMENT", /name of a rule/],
  ["zero steps", { steps: 0 }, "ERR_INVALID_ARGUMENT", /an integer from 1/],
  ["steps without end", { steps: 2 ** 31 }, "ERR_INVALID_ARGUMENT", /steps: expected an integer from 1 to 65536/],
  ["half a step", { steps: 1.5 }, "ERR_INVALID_ARGUMENT", /an integer from 1/],
  ["a negative temperature", { temperature: -1 }, "ERR_INVALID_ARGUMENT", /a number from 0/],
  ["a temperature of NaN", { temperature: Number.NaN }, "ERR_INVALID_ARGUMENT", /NaN/],
  ["topP 0", { topP: 0 }, "ERR_INVALID_ARGUMENT", /above 0 to 1/],
  ["topP 2", { topP: 2 }, "ERR_INVALID_ARGUMENT", /above 0 to 1/],
  ["a flag of the wrong type", { stopAtEos: 1 }, "ERR_INVALID_ARGUMENT", /true or false/],
  ["steps and tokensPerStep", { steps: 2, tokensPerStep: 2 }, "ERR_INVALID_ARGUMENT", /either/],
  ["steps with threshold", { rule: "threshold", steps: 4 }, "ERR_INVALID_ARGUMENT", /as many as the text needs/],
  ["topK with the ancestral form", { rule: "conv", form: "ancestral", topK: 3 }, "ERR_INVALID_ARGUMENT", /candidates/],
];
for (const [name, decoding, code, message] of refusals) {
  test(`refused: ${name}`, (t) => {
    const error = t.throws(() => resolveDecoding(decoding as DecodingOptions), { instanceOf: NoemaError });
    t.is(error?.code, code as NoemaError["code"]);
    t.regex(error?.message ?? "", message);
  });
}

test("every rule works with its defaults, under its own name", (t) => {
  for (const { name } of policies) t.is(resolveDecoding(name).rule, name);
  t.is(resolveDecoding().rule, "conv");
});

test("defaults that depend on the form", (t) => {
  t.is(resolveDecoding("conv").draw.temperature, 0);
  t.is(resolveDecoding({ form: "ancestral" }).draw.temperature, 1);
  t.is(resolveDecoding("semi-autoregressive").blockLength, 32);
  t.is(resolveDecoding({ rule: "semi-autoregressive", blockLength: 8 }).blockLength, 8);
});

test("every option has a line for help texts, and no rule redefines a shared one", (t) => {
  for (const { options, summary } of policies) {
    t.truthy(summary);
    for (const [name, spec] of Object.entries(options)) {
      t.truthy(spec.what);
      t.false(name in sharedOptions);
    }
  }
});

test("shares: the remainder goes to the first parts", (t) => {
  t.deepEqual(share(32, 10), [4, 4, 3, 3, 3, 3, 3, 3, 3, 3]);
  t.deepEqual(share(2, 4), [1, 1, 0, 0]);
  t.deepEqual(share(0, 2), [0, 0]);
});

test("blocks: the last may be shorter, empty ones are left out", (t) => {
  const settings = resolveDecoding({ rule: "low-confidence", blockLength: 4, tokensPerStep: 2 });
  const masked = [5, 6, 7, 8, 9, 17];
  t.deepEqual(blocksOf(masked, settings), [
    { end: 9, size: 4, steps: 2 },
    { end: 13, size: 1, steps: 1 },
    { end: 21, size: 1, steps: 1 },
  ]);
  t.deepEqual(blocksOf([], settings), []);
});

test("blocks: fewer steps than blocks are refused", (t) => {
  const settings = resolveDecoding({ rule: "low-confidence", blockLength: 4, steps: 2 });
  t.throws(() => blocksOf([0, 1, 2, 3, 4, 5, 6, 7, 8], settings), { message: /each of the 3 blocks/ });
});
