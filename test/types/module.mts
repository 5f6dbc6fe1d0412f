/** A consumer's ES module, compiled against the published declarations by test/package.test.ts. */
import { type ErrorCode, errorMeanings, NoemaError } from "noema";

const code: ErrorCode = "ERR_IO";
const error: Error = new NoemaError(code, "cannot read", { path: "x" });
const meaning: string = errorMeanings[code];

if (error instanceof NoemaError) {
  const back: ErrorCode = error.code;
  // @ts-expect-error: a code is one of the list
  const wrong: ErrorCode = "ERR_OTHER";
  // @ts-expect-error: details are read only
  error.details = {};
  console.log(back, wrong, meaning);
}
