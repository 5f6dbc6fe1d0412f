import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { boolean, integer, number, optionalInteger, readConfig, requires } from "../../../lib/checkpoint/config.js";
import { temporaryFolder } from "../temporary.js";

const config = {
  path: "m/config.json",
  values: { layers: 4, half: 0.5, big: 2 ** 53, text: "4", no: null, on: true, __proto__: null },
};
const range = { min: 1, max: 8 };

test("getters give values in range", (t) => {
  t.is(integer(config, "layers", range), 4);
  t.is(optionalInteger(config, "layers", range), 4);
  t.is(optionalInteger(config, "no", range), undefined);
  t.is(optionalInteger(config, "missing", range), undefined);
  t.is(number(config, "half", { min: 0, max: 1 }), 0.5);
  t.true(boolean(config, "on"));
  t.notThrows(() => requires(config, "on", true));
  t.notThrows(() => requires(config, "no", false, true));
});

test("refusals name file, key, found and expected", (t) => {
  const refused = (run: () => unknown, message: string) => t.throws(run, { code: "ERR_BAD_CHECKPOINT", message });
  refused(() => integer(config, "text", range), 'm/config.json: "text": found "4", expected an integer 1 .. 8');
  refused(() => integer(config, "half", range), 'm/config.json: "half": found 0.5, expected an integer 1 .. 8');
  refused(
    () => integer(config, "missing", range),
    'm/config.json: "missing": found nothing, expected an integer 1 .. 8',
  );
  refused(
    () => integer(config, "toString", range),
    'm/config.json: "toString": found nothing, expected an integer 1 .. 8',
  );
  refused(
    () => integer(config, "layers", { min: 5, max: 8 }),
    'm/config.json: "layers": found 4, expected an integer 5 .. 8',
  );
  refused(
    () => integer(config, "big", { min: 0, max: 2 ** 60 }),
    `m/config.json: "big": found ${2 ** 53}, expected an integer 0 .. ${2 ** 60}`,
  );
  refused(() => optionalInteger(config, "on", range), 'm/config.json: "on": found true, expected an integer 1 .. 8');
  refused(() => number(config, "no", range), 'm/config.json: "no": found null, expected a number 1 .. 8');
  refused(() => boolean(config, "layers"), 'm/config.json: "layers": found 4, expected true or false');
  refused(
    () => requires(config, "on", false),
    'm/config.json: "on": found true, expected false, all that this layout does',
  );
  refused(
    () => requires(config, "missing", 3),
    'm/config.json: "missing": found nothing, expected 3, all that this layout does',
  );
});

test("readConfig: limit and form", async (t) => {
  const path = join(await temporaryFolder(t), "config.json");
  await writeFile(path, '{"a": 1}');
  t.deepEqual(await readConfig(path), { path, values: { a: 1 } });
  for (const [text, message] of [
    ["[]", /found an array, expected an object/],
    ["", /not valid JSON/],
    ['{"a":1,"a":1}', /"a" occurs twice/],
    [" ".repeat((1 << 20) + 1), /1048577 bytes, expected at most 1048576/],
  ] as const) {
    await writeFile(path, text);
    await t.throwsAsync(readConfig(path), { code: "ERR_BAD_CHECKPOINT", message });
  }
});
