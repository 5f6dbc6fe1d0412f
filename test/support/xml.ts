/** Why a text is no well-formed XML element, as far as our pictures need XML: undefined where it is one. */
export function xmlFault(text: string): string | undefined {
  const open: string[] = [];
  let end = 0;
  for (const match of text.matchAll(/<(\/?)(\w+)((?:\s+[\w:-]+="[^"<]*")*)\s*(\/?)>/g)) {
    const [tag, closes, name = "", , closed] = match;
    const before = text.slice(end, match.index);
    if (/[<>]/.test(before)) return `not a tag: ${before.trim()}`;
    end = match.index + tag.length;
    if (closes && open.pop() !== name) return `${tag} closes nothing`;
    if (!closes && !closed) open.push(name);
    if (open.length === 0 && text.slice(end).trim() !== "") return `${text.slice(end).trim()} stands outside`;
  }
  const bare = /&(?!(?:#\d+|amp|lt|gt|quot);)/.exec(text);
  if (bare) return `a bare & at ${bare.index}`;
  return end === 0 || open.length > 0 ? `${open.join(" ")} stays open` : undefined;
}
