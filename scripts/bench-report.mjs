// Runs the native benchmarks and writes what they measured, with the machine they ran on, into bench/results:
//
//   node scripts/bench-report.mjs [any option of noema-bench but --json]      after node scripts/setup.mjs --bench
//
// Every row carries the ceilings that were measured between its own slices, so a report can be read without the machine.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
const bench = join(root, "build", "Release", "noema-bench");
const given = process.argv.slice(2);

function measure() {
  const folder = mkdtempSync(join(tmpdir(), "noema-bench-"));
  const file = join(folder, "cases.json");
  try {
    const { status } = spawnSync(bench, [...given, "--json", file], { stdio: ["ignore", "inherit", "inherit"] });
    // Its exit code is not 0 when a case's result was wrong; then there is nothing to report.
    if (status !== 0) process.exit(status ?? 1);
    return JSON.parse(readFileSync(file, "utf8"));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const number = (value, digits) => value.toFixed(digits);
const ceiling = {
  flops: ({ ceiling_flops: c }) => `${number(c / 1e9, 0)} GFLOP/s`,
  bytes: ({ ceiling_bytes: c }) => `${number(c / 1e9, 0)} GB/s`,
  exps: ({ ceiling_exps: c }) => `${number(c / 1e9, 1)} Gexp/s`,
};

/** One line of the table; the rate is that of the best slice, in the unit of what bounds the case. */
function row(result) {
  const { best_seconds: best, median_seconds: median, bound, share } = result;
  const rates = {
    flops: () => `${number(result.flops / best / 1e9, 0)} GFLOP/s`,
    bytes: () => `${number(result.bytes / best / 1e9, 1)} GB/s`,
    exps: () => `${number(result.exps / best / 1e9, 2)} Gexp/s`,
  };
  const times = `${number(best * 1e6, 1)} | ${number(median * 1e6, 1)}`;
  const shares = `${ceiling[bound](result)} | ${number(share * 100, 0)} %`;
  return `| ${result.case} | ${result.threads} | ${times} | ${rates[bound]()} | ${shares} |`;
}

function markdown({ machine, date, command, cases }) {
  return `# ${machine.cpu}, ${machine.cores} cores, ${machine.isa}, ${date}

\`${command}\`. Best and median of many short slices; a case whose result check fails is not reported. The ceiling is what this
machine reached in the same run, between the slices of the case: FMA or bf16 products, reads of the level that the data lives in, or exponentials.

| case | threads | best us | median us | rate | ceiling | share |
|---|---|---|---|---|---|---|
${cases.map(row).join("\n")}
`;
}

if (!existsSync(bench)) {
  process.stderr.write("the benchmarks are not built: node scripts/setup.mjs --bench\n");
  process.exit(1);
}
const cases = measure();
const cpu = cpus()[0]?.model ?? "unknown processor";
const report = {
  date: new Date().toISOString().slice(0, 10),
  command: ["noema-bench", ...given].join(" "),
  machine: { cpu, cores: cpus().length, isa: cases[0]?.isa },
  cases,
};
/** With --filter, a report of its own beside the whole one. */
const filter = given.includes("--filter") ? given[given.indexOf("--filter") + 1] : "";
const part = filter.replace(/\W+/g, "-").replace(/^-|-$/g, "");
const name = [report.date, report.machine.isa, report.machine.cores, "cores", part].filter(Boolean).join("-");
const folder = join(root, "bench", "results");
mkdirSync(folder, { recursive: true });
writeFileSync(join(folder, `${name}.json`), `${JSON.stringify(report, null, 1)}\n`);
writeFileSync(join(folder, `${name}.md`), markdown(report));
process.stderr.write(`written to bench/results/${name}.{json,md}\n`);
