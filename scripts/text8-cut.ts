// The cut of text8 that the comparisons are made on, from the published file.
import { mkdir, open, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** Characters of each part, in the order in which they follow each other in text8, whose beginning they are. */
export const CUT: Parts = { train: 11_500_000, valid: 500_000, test: 549_840 };

export type Parts = Record<"train" | "valid" | "test", number>;

/** Writes train.txt, valid.txt and test.txt into `folder`. `file` is text8 itself, unpacked: letters and spaces, one byte each. */
export async function cutText8(file: string, folder: string, parts: Parts = CUT): Promise<void> {
  const text = await beginning(
    file,
    Object.values(parts).reduce((sum, size) => sum + size, 0),
  );
  await mkdir(folder, { recursive: true });
  let from = 0;
  for (const [name, size] of Object.entries(parts)) {
    await writeFile(join(folder, `${name}.txt`), text.subarray(from, from + size));
    from += size;
  }
}

async function beginning(file: string, size: number): Promise<Buffer> {
  await using handle = await open(file);
  const { size: all } = await handle.stat();
  if (all < size) throw new Error(`--text8: ${file} has ${all} bytes, expected text8, of which ${size} are taken`);
  const text = Buffer.alloc(size);
  for (let read = 0; read < size; ) {
    const { bytesRead } = await handle.read(text, read, size - read, read);
    if (bytesRead === 0) throw new Error(`--text8: ${file} ends after ${read} bytes`);
    read += bytesRead;
  }
  const at = text.findIndex((byte) => byte !== SPACE && (byte < A || byte > Z));
  if (at >= 0) throw new Error(`--text8: ${file} has byte ${text[at]} at ${at}, expected letters a-z and spaces alone`);
  return text;
}

const [SPACE, A, Z] = [" ", "a", "z"].map((character) => character.charCodeAt(0)) as [number, number, number];
