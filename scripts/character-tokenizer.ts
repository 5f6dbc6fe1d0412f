// A tokenizer.json whose tokens are characters.

/** What GPT-2's byte-level vocabularies write for the space and the line end. */
const STAND_INS: Record<string, string> = { " ": "\u0120", "\n": "\u010a" };

/** A character of ASCII is a token, after the end-of-text token that training closes documents with. */
export function characterTokenizer(characters: string, normalizer?: object): string {
  const symbols = ["<|endoftext|>", ...[...characters].map((character) => STAND_INS[character] ?? character)];
  return JSON.stringify({
    version: "1.0",
    added_tokens: [{ id: 0, content: symbols[0], special: true }],
    ...(normalizer && { normalizer }),
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: Object.fromEntries(symbols.map((symbol, id) => [symbol, id])), merges: [] },
  });
}

export const LETTERS = "abcdefghijklmnopqrstuvwxyz";

/** Stories in small letters and what marks of theirs are common: capitals become small, typographic marks plain, all else is dropped. */
export function storyTokenizer(): string {
  const marks = ` \n.,!?'"-`;
  const replace = (Regex: string, content: string) => ({ type: "Replace", pattern: { Regex }, content });
  return characterTokenizer(marks + LETTERS, {
    type: "Sequence",
    normalizers: [
      { type: "NFKD" },
      { type: "Lowercase" },
      replace("[\u2018\u2019]", "'"),
      replace("[\u201c\u201d]", '"'),
      replace("[\u2010-\u2015]+", "-"),
      replace("\\t", " "),
      replace(`[^a-z \\n.,!?'"-]`, ""),
    ],
  });
}
