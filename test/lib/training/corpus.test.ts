import { chmod, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import test, { type ExecutionContext } from "ava";
import { Tokenizer } from "../../../lib/tokenizer/tokenizer.js";
import { type CorpusOptions, openCorpus } from "../../../lib/training/corpus.js";
import { asOrdinaryUser, temporaryFolder } from "../temporary.js";

const tokenizer = await Tokenizer.load(
  fileURLToPath(new URL("../../../models/tales-masked/tokenizer.json", import.meta.url)),
);
const first = "Once upon a time.\nThe end.\n<|endoftext|>\n\nA <|mask|> in the text.\n<|endoftext|>\n";
const second = "No separator at the end";

/** The two texts as files, and options that count how often text was tokenised. */
async function setting(t: ExecutionContext, changes: Partial<CorpusOptions> = {}) {
  const folder = await temporaryFolder(t);
  const files = [join(folder, "first.txt"), join(folder, "second.txt")];
  await writeFile(files[0]!, first);
  await writeFile(files[1]!, second);
  let pieces = 0;
  const onProgress = () => {
    pieces++;
  };
  const cache = join(folder, "deep", "cache");
  return { files, cache, options: { tokenizer, eosId: 0, cache, onProgress, ...changes }, pieces: () => pieces };
}

const expected = ["Once upon a time.\nThe end.", "A <|mask|> in the text.", second].flatMap((text) => [
  ...tokenizer.encode(text),
  0,
]);

async function tokensOf(files: string[], options: CorpusOptions): Promise<number[]> {
  await using corpus = await openCorpus(files, options);
  const ids = new Int32Array(corpus.tokens);
  await corpus.read(0, ids);
  return [...ids];
}

test.serial("a read-only cache is ERR_IO", async (t) => {
  const { files, options } = await setting(t);
  const closed = join(await temporaryFolder(t), "closed");
  await writeFile(closed, "");
  await t.throwsAsync(openCorpus(files, { ...options, cache: closed }), {
    code: "ERR_IO",
    message: /token cache failed/,
  });
  const folder = await temporaryFolder(t);
  await chmod(folder, 0o555);
  const ran = await asOrdinaryUser(async () => {
    await t.throwsAsync(openCorpus(files, { ...options, cache: folder }), { code: "ERR_IO", message: /EACCES/ });
  });
  if (!ran) t.log("skipped: permissions do not bind this user");
});

test("documents in one row, each closed by the end-of-text token", async (t) => {
  const { files, options } = await setting(t);
  t.deepEqual(await tokensOf(files, options), expected);
  await using corpus = await openCorpus(files, options);
  t.like(corpus, { tokens: expected.length, documents: 3, bytes: first.length + second.length });
  t.false(expected.includes(tokenizer.idOf("<|mask|>")!));
});

test("JSON lines, and the same bytes as plain text: the cache keeps them apart", async (t) => {
  const { files, options } = await setting(t);
  const lines = '{"text": "One."}\n{"text": "Two.\\nThree."}\n';
  const path = join(dirname(files[0]!), "texts.jsonl");
  await writeFile(path, lines);
  await writeFile(files[0]!, lines);
  const [asJson, asText] = [
    ["One.", "Two.\nThree."].flatMap((text) => [...tokenizer.encode(text), 0]),
    [...tokenizer.encode(lines.trimEnd()), 0],
  ];
  for (let again = 0; again < 2; again++) {
    t.deepEqual(await tokensOf([path], options), asJson);
    t.deepEqual(await tokensOf([files[0]!], options), asText);
  }
  await using corpus = await openCorpus([path], options);
  t.is(corpus.documents, 2);
});

test("shards and rings: any stretch, across shard ends and the end of the row", async (t) => {
  const { files, options } = await setting(t, { shardTokens: 5 });
  await using corpus = await openCorpus(files, options);
  for (const start of [0, 4, 5, expected.length - 2]) {
    for (const length of [0, 1, 5, 6, expected.length, 2 * expected.length + 1]) {
      const ids = new Int32Array(length);
      await corpus.read(start, ids);
      t.deepEqual(
        [...ids],
        Array.from(ids, (_, i) => expected[(start + i) % expected.length]),
      );
    }
  }
});

test("vocabularies beyond 16 bits take 32-bit ids", async (t) => {
  const path = join(await temporaryFolder(t), "tokenizer.json");
  const model = { type: "BPE", vocab: { a: 70_000, b: 1, e: 0, "\n": 2 }, merges: [] };
  await writeFile(path, JSON.stringify({ added_tokens: [], decoder: { type: "Fuse" }, model }));
  const { files, options } = await setting(t, { tokenizer: await Tokenizer.load(path) });
  await writeFile(files[0]!, "aba\n<|endoftext|>\nab");
  t.deepEqual(await tokensOf([files[0]!], options), [70_000, 1, 70_000, 0, 70_000, 1, 0]);
});

test("the cache serves the same text again, and only that", async (t) => {
  const { files, cache, options, pieces } = await setting(t);
  await using made = await openCorpus(files, options);
  t.is(pieces(), 3);
  await using again = await openCorpus(files, options);
  t.is(pieces(), 3);
  t.is(again.key, made.key);
  await using reversed = await openCorpus([...files].reverse(), options);
  await using other = await openCorpus(files, { ...options, separator: "" });
  await using ended = await openCorpus(files, { ...options, eosId: 2 });
  t.is(new Set([made.key, reversed.key, other.key, ended.key]).size, 4);
  t.is(other.documents, 2);
  await writeFile(files[1]!, `${second}!`);
  await using changed = await openCorpus(files, options);
  t.not(changed.key, made.key);
  t.true((await readdir(cache)).every((name) => /^[0-9a-f]{32}$/.test(name)));
});

test("a damaged cache is made anew", async (t) => {
  const { files, cache, options, pieces } = await setting(t, { shardTokens: 8 });
  await using made = await openCorpus(files, options);
  const folder = join(cache, made.key.slice(0, 32));
  const damages: (() => Promise<void>)[] = [
    () => truncate(join(folder, "00001.bin"), 3),
    () => rm(join(folder, "00000.bin")),
    async () => {
      const bytes = await readFile(join(folder, "00000.bin"));
      bytes[0]! ^= 1;
      await writeFile(join(folder, "00000.bin"), bytes);
    },
    () => rm(join(folder, "index.json")),
    () => writeFile(join(folder, "index.json"), "{"),
    () => writeFile(join(folder, "index.json"), "{}"),
    async () => {
      const index = JSON.parse(await readFile(join(folder, "index.json"), "utf8"));
      await writeFile(join(folder, "index.json"), JSON.stringify({ ...index, shards: index.shards.slice(1) }));
    },
  ];
  for (const [i, damage] of damages.entries()) {
    await damage();
    t.deepEqual(await tokensOf(files, options), expected, `damage ${i}`);
    t.is(pieces(), 3 * (i + 2), `damage ${i}`);
  }
});

test("bad files, no text, a foreign end-of-text token", async (t) => {
  const { files, cache, options } = await setting(t);
  const refused = async (content: string, message: RegExp) => {
    await writeFile(files[0]!, content);
    await t.throwsAsync(openCorpus([files[0]!], options), { code: "ERR_BAD_CORPUS", message });
  };
  await refused("", /first\.txt: the file is empty/);
  await refused("\0\0\0\0", /4 of 4 bytes are NUL/);
  await refused("\n\n<|endoftext|>\n", /first\.txt: there is no text/);
  await t.throwsAsync(openCorpus([], options), { code: "ERR_BAD_CORPUS" });
  for (const eosId of [-1, 4096, 0.5]) {
    await t.throwsAsync(openCorpus(files, { ...options, eosId }), { code: "ERR_INVALID_ARGUMENT", message: /eosId/ });
  }
  t.deepEqual(await readdir(cache), []);
});

test("an abort rejects with the signal's reason and leaves nothing", async (t) => {
  const stop = new AbortController();
  const { files, cache, options } = await setting(t, {
    signal: stop.signal,
    onProgress: () => stop.abort(new Error("enough")),
  });
  await t.throwsAsync(openCorpus(files, options), { message: "enough" });
  t.deepEqual(await readdir(cache), []);
});
