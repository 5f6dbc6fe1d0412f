/** Run by the state tests as a process of its own: saves step 6 and dies at the given operation. */

import { saveState } from "../../../lib/training/state.js";
import { sourceAt, stateAt } from "./tiny-state.js";

const [run = "", index = "0"] = process.argv.slice(2);
let count = 0;
await saveState(run, stateAt(6), sourceAt(6), {
  average: true,
  observe: () => {
    if (count++ === Number(index)) process.kill(process.pid, "SIGKILL");
  },
});
