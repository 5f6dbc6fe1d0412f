/**
 * Which regular expressions of a tokenizer.json are run. They are matched by going back, against whatever users type: nested quantifiers
 * take exponential time for a short text, and would hold the process. Taken are those whose time is linear in the text, which those
 * of published tokenizers are:
 *
 * - What stands before a repetition without end is of bounded length, and what stands after it may be absent: once it matches, nothing fails.
 * - Groups are plain alternatives, present once or not at all.
 * - A few branches that go back over a run of characters, where a later branch takes what is left of that run.
 */

const LENGTH_LIMIT = 2000;
/** Steps at one place of the text, of what has an end: the ways to match, times their length. Published patterns take some 50. */
const EFFORT_LIMIT = 1024;

/** One character: an escape, a class without classes in it, or itself. Assertions of one character's width count as one. */
const CHARACTER =
  /\\(?:[pPxu]\{[^}]*\}|x[\da-fA-F]{2}|u[\da-fA-F]{4}|[wWdDsShHnrtfvaebBAzZ]|[^\p{L}\p{N}])|\[\^?\]?(?:\\\P{Cs}|\[:\^?[a-z]+:\]|[^\\[\]])*\]|[^\\[(){*+?|]/u
    .source;
const GROUP = `\\((?:\\?i?:)?(?<choices>(?:${CHARACTER}|\\|)*)\\)`;
const QUANTIFIER = "(?:(?<sign>[?*+])\\+?|\\{(?<least>\\d{1,2})(?<range>,(?<most>\\d{1,2})?)?\\})";
const PART = new RegExp(`(?:${CHARACTER}|${GROUP})${QUANTIFIER}?`, "uy");

const endings = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
const capitals = "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}";
const smalls = "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}";
const beforeWord = "[^\\r\\n\\p{L}\\p{N}]?";

/** Published branches that go back, and the later branch that each needs. */
const published: readonly { branch: string; rest?: string }[] = [
  { branch: "\\s+(?!\\S)" }, // over one character
  { branch: "\\s*[\\r\\n]+", rest: "\\s+" },
  {
    branch: `${beforeWord}[${capitals}]*[${smalls}]+${endings}`,
    rest: `${beforeWord}[${capitals}]+[${smalls}]*${endings}`,
  },
  { branch: " ?[^(\\s|[.,!?…。，、।۔،])]+" }, // one class, as its reader takes it
];

/** What keeps a pattern from being run; undefined: nothing. */
export function patternProblem(pattern: string): string | undefined {
  if (pattern.length > LENGTH_LIMIT) return `it has ${pattern.length} characters, expected at most ${LENGTH_LIMIT}`;
  let needed: string[] = [];
  let effort = 0;
  for (let at = 0; at <= pattern.length; ) {
    const known = published.find(({ branch }) => isBranchAt(pattern, at, branch));
    const branch = known ? { end: at + known.branch.length, effort: 1 } : plainBranch(pattern, at);
    if (typeof branch === "string") return branch;
    needed = needed.filter((one) => one !== pattern.slice(at, branch.end));
    if (known?.rest !== undefined) needed.push(known.rest);
    effort += branch.effort;
    at = branch.end + 1; // past the "|"
  }
  if (needed.length > 0) return "it may go back over a whole run of characters from each of them";
  return effort > EFFORT_LIMIT ? "it has too many ways to match" : undefined;
}

function isBranchAt(pattern: string, at: number, branch: string): boolean {
  const end = at + branch.length;
  return pattern.startsWith(branch, at) && (end === pattern.length || pattern[end] === "|");
}

/** The branch that starts there, or what is wrong with it. */
function plainBranch(pattern: string, start: number): { end: number; effort: number } | string {
  let at = start;
  let ways = 1;
  let length = 0;
  let least = 0;
  let isEndless = false;
  while (at < pattern.length && pattern[at] !== "|") {
    PART.lastIndex = at;
    const part = PART.exec(pattern);
    if (!part) return `it has more than plain characters, classes, groups and quantifiers at ${at}`;
    const { choices, sign, least: from, range, most: to } = part.groups!;
    const counts = sign === undefined ? countsOf(from, range, to) : signs[sign]!;
    if (choices !== undefined && counts.most > 1) return `it repeats a group at ${at}`;
    if (isEndless && counts.least > 0) return `it may go back over a whole run of characters, at ${at}`;
    const alternatives = choices?.split("|") ?? ["."];
    isEndless ||= counts.most === Number.POSITIVE_INFINITY;
    const most = isEndless ? counts.least : counts.most;
    ways *= alternatives.length * (most - counts.least + 1);
    length += most * Math.max(...alternatives.map((choice) => choice.length));
    least += counts.least;
    at += part[0].length;
  }
  return least === 0 ? "it may match nothing" : { end: at, effort: ways * Math.max(1, length) };
}

interface Counts {
  least: number;
  most: number;
}

const signs: Readonly<Record<string, Counts>> = {
  "?": { least: 0, most: 1 },
  "*": { least: 0, most: Number.POSITIVE_INFINITY },
  "+": { least: 1, most: Number.POSITIVE_INFINITY },
};

/** Of {least}, {least,} and {least,most}, or of no quantifier. */
function countsOf(least = "1", range?: string, most = range === undefined ? least : "Infinity"): Counts {
  return { least: Number(least), most: Number(most) };
}
