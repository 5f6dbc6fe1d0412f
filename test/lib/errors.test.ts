import test from "ava";
import { errorMeanings, NoemaError, nearest, unknownOption } from "../../lib/errors.js";
import { definitions } from "../support/files.js";

test("the codes and their meanings are those of status.def", (t) => {
  const native = definitions("native/include/noema/status.def").filter(([, code]) => code !== "OK");
  t.deepEqual(
    Object.entries(errorMeanings),
    native.map(([, code = "", meaning = ""]) => [code, meaning]),
  );
});

test("a NoemaError is an Error with a name, a code and details", (t) => {
  const cause = new Error("disk");
  const error = new NoemaError("ERR_IO", "cannot read", { path: "x" }, { cause });
  t.true(error instanceof Error);
  t.is(String(error), "NoemaError: cannot read");
  t.is(error.code, "ERR_IO");
  t.deepEqual(error.details, { path: "x" });
  t.is(error.cause, cause);
  t.regex(error.stack ?? "", /^NoemaError: cannot read\n/);
  t.deepEqual(new NoemaError("ERR_IO", "m").details, {});
});

test("an unknown option is answered with the spelling that was probably meant", (t) => {
  const allowed = ["seed", "maxTokens", "temperature"];
  t.is(unknownOption("maxtokens", allowed).message, 'unknown option "maxtokens"; did you mean "maxTokens"?');
  t.is(unknownOption("temp", allowed).details["suggestion"], "temperature");
  t.is(unknownOption("sede", allowed, "key").message, 'unknown key "sede"; did you mean "seed"?');
  const strange = unknownOption("zzzzzz", allowed);
  t.is(strange.code, "ERR_UNKNOWN_OPTION");
  t.is(strange.message, 'unknown option "zzzzzz"; known: seed, maxTokens, temperature');
  t.is(unknownOption("x", []).message, 'unknown option "x"; known: none');
  t.is(nearest("", allowed), undefined);
});
