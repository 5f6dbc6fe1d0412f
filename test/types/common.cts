/** A consumer's CommonJS module, compiled against the published declarations by test/package.test.ts. */
import noema = require("noema");

const error = new noema.NoemaError("ERR_IO", "cannot read");
const code: noema.ErrorCode = error.code;
// @ts-expect-error: a code is one of the list
new noema.NoemaError("ERR_OTHER", code);
