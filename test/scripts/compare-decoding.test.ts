import test from "ava";
import { meanOf, repeatedShare, table } from "../../scripts/compare-decoding.js";

test("repeated n-grams", (t) => {
  t.is(repeatedShare([1, 2, 3, 4, 5], 4), 0);
  t.is(repeatedShare([1, 1, 1, 1, 1], 4), 0.5);
  t.is(repeatedShare([1, 2], 4), 0);
  t.is(repeatedShare([1, 2, 1, 2, 1], 2), 0.5);
});

test("means with their standard error, as a table", (t) => {
  t.deepEqual(meanOf([1, 3]), { mean: 2, standardError: 1 });
  const one = { mean: 1, standardError: 0.5 };
  const row = {
    rule: "conv",
    steps: 4,
    texts: 2,
    repetition: one,
    distinct2: one,
    natsPerToken: one,
    secondsPerText: 2,
  };
  t.regex(table([row]), /\| conv \| 4 \| 1\.000 ± 0\.500 \|/);
});
