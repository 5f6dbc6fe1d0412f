/** How a byte-level tokenizer cuts text into words: GPT-2's pattern, which the format fixes under the name ByteLevel. */
const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** The words, each with the space before it; together they are the text, and each alone is one word again. */
export function wordsOf(text: string): string[] {
  return text.match(WORDS) ?? [];
}
