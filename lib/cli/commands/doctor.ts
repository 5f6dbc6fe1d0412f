/** `noema doctor`: what this machine offers, which binary was loaded, and why anything else was declined. */

import { realpathSync } from "node:fs";
import { arch, availableParallelism, cpus, platform, release, totalmem } from "node:os";
import type { Command } from "commander";
import { autoTakesCuda, whyNotCuda } from "../../device.js";
import { NoemaError } from "../../errors.js";
import type { AddonInfo } from "../../native/addon.js";
import { moduleFile } from "../../native/device-module.js";
import { libcHere, loadedLibraries } from "../../native/libc.js";
import { type Attempt, loadAddon } from "../../native/load.js";
import { probe } from "../../native/probe.js";
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
  /** Of a GPU: the file of its kernels, when there is one. */
  module?: string;
  description?: string;
  /** Why it is not usable, or not used unless asked for. */
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
    .action(async ({ json }: { json?: boolean }) => {
      const { diagnosis, failure } = await diagnose();
      streams.out.write(json ? `${JSON.stringify(diagnosis, null, 2)}\n` : render(diagnosis, paletteOf(streams.out)));
      if (failure) throw failure;
    });
}

async function diagnose(): Promise<{ diagnosis: Diagnosis; failure?: NoemaError }> {
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
    diagnosis.devices = [processor(info), await cuda(path)];
  } catch (error) {
    if (!(error instanceof NoemaError) || error.code !== "ERR_ADDON_MISSING") throw error;
    diagnosis.addon = { attempts: error.details["attempts"] as Attempt[], error: error.message };
    return { diagnosis, failure: error };
  }
  const highway = loadedLibraries("libhwy.")[0];
  if (highway) diagnosis.highway = realpathSync(highway);
  return { diagnosis };
}

function processor({ backends, isa, isaList }: AddonInfo): Device {
  const declined = instructionSets.slice(0, Math.max(0, instructionSets.indexOf(isaList[0] ?? "portable")));
  return { name: "cpu", usable: true, backends, isa: { inUse: isa, available: isaList, declined } };
}

/** The device is tried in a child process, and only where there is a module for it. */
async function cuda(addonPath: string): Promise<Device> {
  const module = moduleFile("cuda", addonPath);
  if (module.reason) return { name: "cuda", usable: false, reason: module.reason };
  const verdict = await probe({ backend: "cuda", addonPath });
  const hint = verdict.usable && !autoTakesCuda ? { reason: `"auto" leaves it alone: ${whyNotCuda}` } : {};
  return { name: "cuda", backends: ["cuda"], module: module.path, ...verdict, ...hint };
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

function describeDevice({ usable, backends, isa, module, description, reason }: Device, palette: Palette): string {
  const file = module ? `; module ${module}` : "";
  if (!usable) return palette.yellow(`declined: ${reason}`) + file;
  const parts = [palette.green("usable"), `backends ${backends?.join(", ")}`];
  if (description) parts.push(description);
  if (isa) parts.push(`instruction set ${isa.inUse} of ${isa.available.join(", ")}`);
  if (isa && isa.declined.length > 0) parts.push(`not offered by this processor or kernel: ${isa.declined.join(", ")}`);
  if (reason) parts.push(reason);
  return parts.join("; ") + file;
}
