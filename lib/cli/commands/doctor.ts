/** `noema doctor`: what this machine offers, which binary was loaded, and why anything else was declined. */

import { realpathSync } from "node:fs";
import { arch, availableParallelism, cpus, platform, release, totalmem } from "node:os";
import type { Command } from "commander";
import { NoemaError } from "../../errors.js";
import type { AddonInfo } from "../../native/addon.js";
import { libcHere, loadedLibraries } from "../../native/libc.js";
import { type Attempt, loadAddon } from "../../native/load.js";
import { packageVersion } from "../../package.js";
import { example, type Streams } from "../command.js";
import { type Palette, paletteOf } from "../palette.js";

interface Diagnosis {
  noema: string;
  node: { version: string; nodeApi: number };
  machine: { system: string; libc?: string; processor: string; cores: number; memoryGiB: number };
  addon: { path?: string; version?: string; attempts: Attempt[]; error?: string };
  /** The shared library that the kernels' dynamic dispatch comes from; absent when it is linked into the addon. */
  highway?: string;
  devices: Device[];
}

interface Device {
  name: string;
  usable: boolean;
  backends?: string[];
  isa?: { inUse: string; available: string[]; declined: string[] };
  reason?: string;
}

/** Every instruction set the kernels may be written for, best first; a machine offers the end of this list. */
const instructionSets = ["amx", "avx512-bf16", "avx512", "avx2", "portable"];

export function doctor(program: Command, streams: Streams): void {
  program
    .command("doctor")
    .description("say what this machine offers, which native binary was loaded and why others were declined")
    .option("--json", "print JSON")
    .addHelpText("after", example("noema doctor --json"))
    .action(({ json }: { json?: boolean }) => {
      const { diagnosis, failure } = diagnose();
      streams.out.write(json ? `${JSON.stringify(diagnosis, null, 2)}\n` : render(diagnosis, paletteOf(streams.out)));
      if (failure) throw failure;
    });
}

function diagnose(): { diagnosis: Diagnosis; failure?: NoemaError } {
  const libc = libcHere();
  const diagnosis: Diagnosis = {
    noema: packageVersion,
    node: { version: process.versions.node, nodeApi: Number(process.versions["napi"]) },
    machine: {
      system: `${platform()} ${release()} ${arch()}`,
      ...(libc && { libc }),
      processor: cpus()[0]?.model.trim() ?? "unknown",
      cores: availableParallelism(),
      memoryGiB: Math.round(totalmem() / 2 ** 30),
    },
    addon: { attempts: [] },
    devices: [],
  };
  try {
    const { addon, path, attempts } = loadAddon();
    const info = addon.info();
    diagnosis.addon = { path, version: info.version, attempts };
    diagnosis.devices = devices(info);
  } catch (error) {
    if (!(error instanceof NoemaError) || error.code !== "ERR_ADDON_MISSING") throw error;
    diagnosis.addon = { attempts: error.details["attempts"] as Attempt[], error: error.message };
    return { diagnosis, failure: error };
  }
  const highway = loadedLibraries("libhwy.")[0];
  if (highway) diagnosis.highway = realpathSync(highway);
  return { diagnosis };
}

function devices({ backends, isa, isaList }: AddonInfo): Device[] {
  const declined = instructionSets.slice(0, Math.max(0, instructionSets.indexOf(isaList[0] ?? "portable")));
  return [
    {
      name: "cpu",
      usable: true,
      backends: backends.filter((name) => name !== "cuda"),
      isa: { inUse: isa, available: isaList, declined },
    },
    backends.includes("cuda")
      ? { name: "cuda", usable: true, backends: ["cuda"] }
      : { name: "cuda", usable: false, reason: `noema ${packageVersion} has no CUDA kernels` },
  ];
}

function render(d: Diagnosis, palette: Palette): string {
  const lines = [
    ["noema", d.noema],
    ["node", `${d.node.version} (Node-API ${d.node.nodeApi})`],
    ["machine", `${d.machine.system}, ${d.machine.libc ?? "libc unknown"}`],
    ["processor", `${d.machine.processor}, ${d.machine.cores} cores, ${d.machine.memoryGiB} GiB`],
    ...d.addon.attempts.map((attempt) => ["addon", describeAttempt(attempt, palette)]),
    ...(d.addon.version ? [["highway", d.highway ?? "linked into the addon"]] : []),
    ...d.devices.map((device) => [device.name, describeDevice(device, palette)]),
  ];
  return lines.map(([label = "", text]) => `${palette.bold(label.padEnd(10))} ${text}\n`).join("");
}

function describeAttempt({ source, path, reason }: Attempt, palette: Palette): string {
  const where = path ? `${source}, ${path}` : source;
  return reason ? `${where}: ${palette.yellow(reason)}` : `${where}: ${palette.green("loaded")}`;
}

function describeDevice({ usable, backends, isa, reason }: Device, palette: Palette): string {
  if (!usable) return palette.yellow(`declined: ${reason}`);
  const parts = [palette.green("usable"), `backends ${backends?.join(", ")}`];
  if (isa) parts.push(`instruction set ${isa.inUse} of ${isa.available.join(", ")}`);
  if (isa && isa.declined.length > 0) parts.push(`not offered by this processor or kernel: ${isa.declined.join(", ")}`);
  return parts.join("; ");
}
