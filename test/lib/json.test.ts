import test from "ava";
import fc from "fast-check";
import { describe, parseObject } from "../../lib/json.js";

const parse = (text: string | Buffer) => parseObject(Buffer.from(text as string), "x.json", "ERR_BAD_CHECKPOINT");

test("gives what JSON.parse gives for every object", (t) => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.constantFrom(0, 2), (value, indent) => {
      const text = JSON.stringify(value, null, indent);
      t.deepEqual(parse(text), JSON.parse(text));
    }),
  );
});

test("refuses a key that one object holds twice, at any depth and however it is escaped", (t) => {
  const twice = { code: "ERR_BAD_CHECKPOINT", message: /x\.json: the key "a" occurs twice/ };
  for (const text of [
    '{"a":1,"a":2}',
    '{"a":1,"\\u0061":2}',
    '{"b":[{"c":{"a":"}","a":[]}}]}',
    '{"x":[1,{"y":"\\"a\\":"}],"a":{"a":1},"a":3}',
    '{"\\\\":"\\\\\\"","a":1,"a":2}',
  ]) {
    t.throws(() => parse(text), twice, text);
  }
  for (const text of ['{"a":{"a":1}}', '{"b":["a","a"]}', '{"a":"b","b":"a"}', "[{}]".replace(/[[\]]/g, "")]) {
    t.notThrows(() => parse(text), text);
  }
});

test("refuses what is no JSON object in UTF-8", (t) => {
  for (const text of [
    "",
    "{",
    "[1]",
    "null",
    "7",
    '{"a":NaN}',
    "{'a':1}",
    "\ufeff{}",
    Buffer.from([0x7b, 0xff, 0x7d]),
  ]) {
    t.throws(() => parse(text), { code: "ERR_BAD_CHECKPOINT", message: /^x\.json: (not valid JSON|found)/ });
  }
});

test("describe is short", (t) => {
  t.is(describe("abc"), '"abc"');
  t.is(describe(undefined), "nothing");
  t.is(describe(null), "null");
  t.is(describe([1]), "an array");
  t.is(describe({}), "an object");
  t.is(describe("x".repeat(200)).length, 80);
  t.is(describe(Number.NaN), "NaN");
});

test("describe knows every value: also those that JSON or a text cannot hold", (t) => {
  const cyclic: unknown[] = [];
  cyclic.push(cyclic);
  const known: [unknown, string][] = [
    [5n, "5n"],
    [Symbol("s"), "Symbol(s)"],
    [() => 1, "a function"],
    [cyclic, "an array"],
    [Object.create(null), "an object"],
    [JSON.parse("[".repeat(1e5) + "]".repeat(1e5)), "an array"],
  ];
  for (const [value, text] of known) t.is(describe(value), text);
});
