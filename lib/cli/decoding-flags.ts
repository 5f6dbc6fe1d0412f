/** One switch for every option of every decoding rule, made from the rules' own descriptions. */

import { type Command, Option } from "commander";
import { type OptionSpec, type OptionSpecs, sharedOptions } from "../decoding/options.js";
import { policies } from "../decoding/registry.js";
import { type DecodingOptions, defaultRule } from "../decoding/resolve.js";
import { numberOf } from "./bound-flags.js";
import { kebab } from "./command.js";

export type DecodingFlags = Record<string, unknown> & { decoding?: string };

/** The options, and in front of those that only one rule has, its name. */
function described(): [string, OptionSpec, string][] {
  const all = (specs: OptionSpecs, owner: string) =>
    Object.entries(specs).map(([name, spec]): [string, OptionSpec, string] => [name, spec, owner]);
  return [...all(sharedOptions, ""), ...policies.flatMap(({ name, options }) => all(options, `${name}: `))];
}

export function addDecodingFlags(command: Command): Command {
  const rules = policies.map(({ name }) => name).join(", ");
  command.option("--decoding <rule>", `${rules} (default: ${defaultRule})`);
  const seen = new Set<string>();
  for (const [name, spec, owner] of described()) {
    if (seen.has(name)) continue;
    seen.add(name);
    command.addOption(flagOf(name, spec, owner));
  }
  return command;
}

function flagOf(name: string, spec: OptionSpec, owner: string): Option {
  const given = spec.default === undefined ? "" : ` (default: ${spec.default})`;
  const text = `${owner}${spec.what}${spec.kind === "flag" ? "" : given}`;
  if (spec.kind !== "flag") return new Option(`--${kebab(name)} <${spec.kind === "number" ? "n" : "name"}>`, text);
  return spec.default ? new Option(`--no-${kebab(name)}`, `do not ${text}`) : new Option(`--${kebab(name)}`, text);
}

/** What was given on the command line; the rule checks whether it takes it. */
export function decodingOptions(flags: DecodingFlags): DecodingOptions {
  const options: Record<string, unknown> = { rule: flags.decoding ?? defaultRule };
  for (const [name, spec] of described()) {
    const value = flags[name];
    if (value === undefined || (spec.kind === "flag" && value === spec.default)) continue;
    options[name] = spec.kind === "number" ? numberOf(String(value), kebab(name)) : value;
  }
  return options;
}
