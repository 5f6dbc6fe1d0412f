// GPT-2's printable stand-ins for bytes: a byte-level vocabulary is written in these characters, one per byte. Printable
// Latin-1 bytes stand for themselves; the other 68 take U+0100 and up, in byte order.

function isPrintable(byte: number): boolean {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

function standIns(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
}

/** The character that stands for byte b, at index b. */
export const BYTE_CHARACTERS: readonly string[] = standIns();

const BYTE_OF = new Map(BYTE_CHARACTERS.map((character, byte) => [character, byte]));

/** The bytes that a token written in stand-ins means; undefined when some character is no stand-in. */
export function bytesOfToken(token: string): Uint8Array | undefined {
  const bytes: number[] = [];
  for (const character of token) {
    const byte = BYTE_OF.get(character);
    if (byte === undefined) return undefined;
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}
