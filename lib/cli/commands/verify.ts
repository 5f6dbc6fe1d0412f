/** `noema verify`: recomputes a golden folder's arrays and prints how far each is from what is expected. */

import type { Command } from "commander";
import type { BackendName } from "../../native/addon.js";
import { type ArrayReport, assertPassed, type VerificationReport, verify as verifyFolder } from "../../verify.js";
import { numberOf } from "../bound-flags.js";
import { example, type Streams } from "../command.js";
import { type Palette, paletteOf } from "../palette.js";

interface VerifyFlags {
  backend?: string;
  threads?: string;
  json?: boolean;
}

export function verify(program: Command, streams: Streams): void {
  program
    .command("verify")
    .description(
      "recompute the arrays of a golden case and compare them with the expected ones; exit code 1 if any differ",
    )
    .argument("<folder>", "a checkpoint with expected.json and expected.safetensors")
    .option("--backend <name>", "cpu, reference, cuda, cuda:N or cuda-emulated (default: NOEMA_BACKEND, or cpu)")
    .option("--threads <n>", "0: one per core (default: 0)")
    .option("--json", "print one JSON document")
    .addHelpText("after", example("noema verify ../shared/golden/masked/llada --backend reference"))
    .action((folder: string, flags: VerifyFlags) => run(folder, flags, streams));
}

async function run(folder: string, { backend, threads, json }: VerifyFlags, { out }: Streams): Promise<void> {
  const palette = paletteOf(out);
  const report = await verifyFolder(folder, {
    ...(backend === undefined ? {} : { backend: backend as BackendName }),
    ...(threads === undefined ? {} : { threads: numberOf(threads, "threads") }),
    ...(json ? {} : { onArray: (one: ArrayReport) => out.write(`${line(one, palette)}\n`) }),
  });
  out.write(json ? `${JSON.stringify(report, finite, 2)}\n` : `${summary(report)}\n`);
  assertPassed(report);
}

/** JSON has no infinity. */
function finite(_: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
}

function line(report: ArrayReport, palette: Palette): string {
  const { name, status, reason, maxError, ratio, tolerance } = report;
  if (status === "input") return palette.dim(`   input  ${name}`);
  if (status === "skipped") return palette.dim(`    skip  ${name}: ${reason}`);
  const mark = status === "checked" ? palette.green("      ok") : palette.red("  FAILED");
  const share = tolerance === "equal" ? "" : `, ${((ratio ?? 0) * 100).toPrecision(2)} % of the tolerance`;
  return `${mark}  ${name}: error ${(maxError ?? 0).toExponential(1)}${share} (${tolerance})`;
}

function summary({ backend, isa, checked, failed, skipped, arrays }: VerificationReport): string {
  const inputs = arrays.length - checked - failed - skipped;
  return `${checked} ok, ${failed} failed, ${skipped} skipped, ${inputs} inputs; backend ${backend} (${isa})`;
}
