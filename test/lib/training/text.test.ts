import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import fc from "fast-check";
import { inspectTextFile, readPieces, type TextOptions } from "../../../lib/training/text.js";
import { temporaryFolder } from "../temporary.js";

async function fileOf(t: ExecutionContext, content: string | Uint8Array): Promise<string> {
  const path = join(await temporaryFolder(t), "text.txt");
  await writeFile(path, content);
  return path;
}

async function documents(path: string, options?: TextOptions) {
  const found: string[][] = [[]];
  for await (const { text, last } of readPieces(path, options)) {
    found.at(-1)!.push(text);
    if (last) found.push([]);
  }
  return found;
}

/** What documents are, in one line each. */
function plainDocuments(content: string, separator: string): string[] {
  const lines = content.replace(/^\ufeff/, "").split(/\r?\n/);
  const found: string[][] = [[]];
  for (const line of lines) {
    if (separator !== "" && line.trim() === separator) found.push([]);
    else found.at(-1)!.push(line);
  }
  return found.map((list) => list.join("\n").replace(/^\n+|\n+$/g, "")).filter((text) => text !== "");
}

test("pieces joined are the documents, however long the lines", async (t) => {
  const path = await fileOf(t, "");
  const line = fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom("", "a", "end", " end ", "ende", "é🎉", "\r", "x\r", "<|endoftext|>") },
    {
      weight: 1,
      arbitrary: fc
        .tuple(fc.constantFrom("long ", "🎉", "a\rb"), fc.constantFrom(4096, 8193, 40000))
        .map(([s, n]) => s.repeat(n)),
    },
  );
  const property = fc.asyncProperty(fc.array(line), fc.constantFrom("end", "", undefined), async (lines, separator) => {
    const content = lines.join("\n");
    await writeFile(path, content);
    const found = await documents(path, separator === undefined ? {} : { separator });
    t.deepEqual(found.pop(), []);
    t.deepEqual(
      found.map((pieces) => pieces.join("")),
      plainDocuments(content, separator ?? "<|endoftext|>"),
    );
    t.true(found.flat().every((piece) => piece !== "" && piece.length <= 16384 && !/\p{Surrogate}/u.test(piece)));
  });
  await fc.assert(property, { numRuns: 60 });
});

test("characters and line ends that straddle the reader's blocks", async (t) => {
  // Blocks are 2^20 bytes: every alignment of a 4-byte character and of "\r\n" to the first boundary.
  for (let shift = 0; shift < 5; shift++) {
    const content = `${"a".repeat((1 << 20) - shift)}🎉\r\n<|endoftext|>\nb`;
    const path = await fileOf(t, content);
    t.like(await inspectTextFile(path), { bytes: Buffer.byteLength(content) });
    t.deepEqual(
      (await documents(path)).map((pieces) => pieces.join("")),
      [content.slice(0, content.indexOf("\r")), "b", ""],
    );
    const wide = `${"é".repeat((1 << 19) - 1)}${"\r\n".repeat(3)}${"x".repeat(shift)}`;
    t.deepEqual(
      (await documents(await fileOf(t, wide))).map((pieces) => pieces.join("")).filter(Boolean),
      plainDocuments(wide, ""),
    );
  }
});

async function linesOfJson(t: ExecutionContext, content: string): Promise<string> {
  const path = join(await temporaryFolder(t), "texts.jsonl");
  await writeFile(path, content);
  return path;
}

test("JSON lines: every line's text is a document, whatever lines it has itself", async (t) => {
  const texts = ["a\r\nb\n<|endoftext|>\nc", "", "\n\n é🎉 \n\n", `${"🎉".repeat(20_000)}\nx${"y".repeat(40_000)}`];
  const lines = texts.map((text, id) => JSON.stringify({ id, text }));
  for (const content of [lines.join("\n"), `\ufeff${lines.join("\r\n \r\n")}\n\n`]) {
    const found = await documents(await linesOfJson(t, content), { separator: "x" });
    t.deepEqual(found.pop(), []);
    t.deepEqual(
      found.map((pieces) => pieces.join("")),
      texts.flatMap((text) => plainDocuments(text, "")),
    );
    t.true(found.flat().every((piece) => piece.length <= 16384 && !/\p{Surrogate}/u.test(piece)));
  }
  const path = await linesOfJson(t, '{"text": "a\\ud83cb\\ud83c\\udf89"}');
  t.deepEqual((await documents(path))[0], ["a\ufffdb🎉"], "half a character is none");
});

test("JSON lines that hold no text are refused with file and line", async (t) => {
  const refused = async (line: string, problem: RegExp) => {
    const path = await linesOfJson(t, `{"text": "good"}\n\n${line}\n{"text": "never read"}\n`);
    const error = await t.throwsAsync(documents(path), { code: "ERR_BAD_CORPUS", message: problem });
    t.true(error?.message.startsWith(`${path}: line 3: `), error?.message);
  };
  await refused('{"text": "cut', /not valid JSON/);
  await refused('{"text": "a"} {"text": "b"}', /not valid JSON/);
  await refused('["a"]', /found an array, expected an object/);
  await refused('{"title": "a"}', /"text" is nothing, expected a string/);
  await refused('{"text": ["a"]}', /"text" is an array, expected a string/);
  await refused('{"text": "a", "text": "b"}', /occurs twice/);
  await refused(`{"text": "${"a".repeat(1 << 24)}"}`, /more than 16777216 characters/);
});

test("the file's hash and size", async (t) => {
  const path = await fileOf(t, "abc");
  const sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  t.deepEqual(await inspectTextFile(path), { path, bytes: 3, sha256 });
});

test("what is no text is refused with file and offset", async (t) => {
  const refused = async (content: string | Uint8Array, message: RegExp, details?: object) => {
    const path = await fileOf(t, content);
    const error = await t.throwsAsync(inspectTextFile(path), { code: "ERR_BAD_CORPUS", message });
    t.true(error?.message.startsWith(path));
    if (details) t.like(error, { details });
  };
  await refused("", /the file is empty/);
  await refused("ab\0c", /1 of 4 bytes are NUL or not UTF-8, the first at offset 2/, { offset: 2, badBytes: 1 });
  await refused(Buffer.from([0x61, 0xff, 0xfe]), /2 of 3 bytes .* first at offset 1/);
  await refused(Buffer.from([0x61, 0xe2, 0x82]), /2 of 3 bytes .* first at offset 1/, { badBytes: 2 });
  await refused(Buffer.from([0xc0, 0x80, 0xed, 0xa0, 0x80]), /5 of 5 bytes/);
  await refused(Buffer.from("text", "utf16le"), /4 of 8 bytes .* offset 1/);
  await refused(Buffer.concat([Buffer.alloc(2 << 20, "a"), Buffer.alloc(1 << 16, 0xff)]), /65536 of .* offset 2097152/);
  await t.throwsAsync(inspectTextFile(join(await temporaryFolder(t), "none")), { code: "ERR_IO", message: /ENOENT/ });
  await t.throwsAsync(inspectTextFile(await temporaryFolder(t)), {
    code: "ERR_BAD_CORPUS",
    message: /not a regular file/,
  });
});

test("a stray bad byte in a thousand passes and reads as U+FFFD", async (t) => {
  const content = Buffer.alloc(2000, "a");
  content[7] = 0xff;
  const path = await fileOf(t, content);
  t.is((await inspectTextFile(path)).bytes, 2000);
  t.is((await documents(path))[0]![0]![7], "\ufffd");
});

test("a line longer than a block, of characters that take two units", async (t) => {
  for (const start of ["", "x", "xx", "xxx"]) {
    const text = start + "🎉".repeat(600_000);
    const [pieces] = await documents(await fileOf(t, text));
    t.is(pieces!.join(""), text);
    t.false(pieces!.some((piece) => /\p{Surrogate}/u.test(piece)));
  }
});

test("blank lines inside a document come in pieces too", async (t) => {
  const text = `a${"\n".repeat(50_000)}b`;
  const [pieces] = await documents(await fileOf(t, text));
  t.is(pieces!.join(""), text);
  t.true(pieces!.every((piece) => piece.length <= 2 * 16384));
});
