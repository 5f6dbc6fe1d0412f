/** Looking into thoughts: the numbers, their picture, the command. */

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { createEngine } from "../../../lib/index.js";
import type { ContinueRequest, NativeCancellation, NativeThoughtModel } from "../../../lib/native/addon.js";
import { Thought } from "../../../lib/posterior/thought.js";
import type { ThoughtHost } from "../../../lib/thought/host.js";
import { look, type ThoughtInspection } from "../../../lib/thought/inspect.js";
import { thoughtPicture } from "../../../lib/thought/picture.js";
import { noema } from "../../support/command.js";
import { xmlFault } from "../../support/xml.js";
import { scratch } from "../training/scratch.js";
import { fixture, trained } from "../training/tiny-run.js";
import { tinyThought } from "./tiny-thought.js";

let run: Promise<string> | undefined;

function folder(): Promise<string> {
  run ??= fixture(tinyThought).then(async ({ options }) => {
    await trained(options);
    return options.run;
  });
  return run;
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

test("a text's thought: shapes, and the figures of the fit again", async (t) => {
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(await folder(), { family: "thought" });
  const found = await model.inspect("abcabc", { seed: 3 });
  t.deepEqual([found.tokens, found.ids.length], [6, 6]);
  t.is(model.tokenizer!.decode(found.ids), "abcabc");
  t.is(found.attention.length, 2);
  for (const layer of found.attention) {
    t.is(layer.length, 6);
    for (const weights of layer) t.true(weights.length === 2 && Math.abs(sum(weights) - 1) < 1e-6);
  }
  // All layers read what the fit scored last.
  t.is(found.byLayers.length, 3);
  t.true(Math.abs(6 * found.byLayers[2]!.crossEntropy - found.curve.crossEntropy.at(-1)!) < 1e-4);
  t.true(Math.abs(sum(found.kl.flat()) - found.thought.kl) < 1e-9);
  t.deepEqual(await model.inspect("abcabc", { seed: 3 }), found);
  // Without the thought it is another reading, and what is read is the layer's own.
  t.not(found.byLayers[0]!.crossEntropy, found.byLayers[1]!.crossEntropy);
  t.notDeepEqual(found.attention[0], found.attention[1]);
});

test("accuracy counts the likeliest tokens, rebuilt those that stand in their places; attention is the mean over heads", async (t) => {
  const text = [5, 6, 7];
  const seen: number[][] = [];
  const native = {
    // With nothing to read the first token is guessed, and with the draw the last ones.
    continue: async ({ ids, z, tokens, temperature }: ContinueRequest) => {
      t.deepEqual([Array.from(ids), tokens, temperature], [[9, 9], 3, 0]);
      t.deepEqual(Array.from(z), [0, 0, 3, 4]);
      return { tokens: [Int32Array.of(5, 0, 0), Int32Array.of(0, 6, 7)], confidence: [] };
    },
    losses: async ({ targets }: { targets: Int32Array }) => Float32Array.from(targets, (id) => id),
    forward: async ({ z, attention }: { z: Float32Array; attention?: boolean }) => {
      seen.push(Array.from(z));
      // As many are right as there are vectors to read; two heads, two vectors.
      const right = z.reduce((count, value) => count + (value !== 0 ? 1 : 0), 0);
      const likeliest = Int32Array.from(text, (id, i) => (i < right ? id : 0));
      const weights = text.flatMap((_, i) => [0.25 * i, 1 - 0.25 * i, 1, 0]);
      return { likeliest, ...(attention && { attention: [Float32Array.from(weights)] }) };
    },
  };
  const sizes = { latents: 2, width: 1, fingerprint: "" };
  const numbers = { mean: Float32Array.of(1, 2), logVariance: new Float32Array(2), z: Float32Array.of(3, 4) };
  const thought = new Thought({ sizes, ...numbers, tokens: 3, steps: 0, curve: { crossEntropy: [], kl: [] } });
  const host = {
    native: native as unknown as NativeThoughtModel,
    config: { numLayers: 1, numLatents: 2, bosTokenId: 9 },
    sizes,
  } as ThoughtHost;
  const found = await look(host, text, { thought, cancellation: {} as NativeCancellation });
  t.deepEqual(found.byLayers, [
    { crossEntropy: 6, accuracy: 0, rebuilt: 1 / 3 },
    { crossEntropy: 6, accuracy: 2 / 3, rebuilt: 2 / 3 },
  ]);
  t.deepEqual(found.attention, [text.map((_, i) => [(1 + 0.25 * i) / 2, (1 - 0.25 * i) / 2])]);
  t.deepEqual(found.kl, [[0.5, 2]]);
  t.deepEqual(seen, [
    [0, 0],
    [3, 4],
    [3, 4],
  ]);
});

/** Of a text of so many tokens in a model of L layers with M vectors each. */
function inspectionOf(tokens: number, L: number, M: number, steps = 16): ThoughtInspection {
  const perLayer = <T>(make: (layer: number) => T): T[] => Array.from({ length: L }, (_, layer) => make(layer));
  const weights = (t: number) => Array.from({ length: M }, (_, m) => (m === t % M ? 1 : 0));
  const nats = (scale: number) => Array.from({ length: steps + 1 }, (_, step) => scale / (1 + step));
  return {
    ...{ thought: {} as Thought, tokens, ids: Int32Array.from({ length: tokens }, (_, i) => i) },
    kl: perLayer((layer) => Array.from({ length: M }, (_, m) => 300 * layer * m)),
    curve: { crossEntropy: nats(500), kl: nats(9000) },
    byLayers: Array.from({ length: L + 1 }, (_, l) => ({
      crossEntropy: 5 - l / 10,
      accuracy: l / (L + 1),
      rebuilt: 0,
    })),
    attention: perLayer(() => Array.from({ length: tokens }, (_, t) => weights(t))),
  };
}

test("pictures are well-formed and finite, of one token or many, one vector or many", (t) => {
  const decode = (id: number) => ["<a&b>", '"', "\n", "\ud83d", "verylongtoken&more"][id % 5]!;
  for (const [tokens, L, M, steps] of [
    [1, 1, 1, 0],
    [1, 6, 4, 16],
    [50, 3, 8, 1],
    [256, 3, 8, 16],
    [256, 12, 64, 64],
  ] as const) {
    const picture = thoughtPicture(inspectionOf(tokens, L, M, steps), decode);
    t.is(xmlFault(picture), undefined);
    t.false(/NaN|Infinity|undefined|e[-+]\d/.test(picture), `${tokens} tokens`);
    const [width, height] = /viewBox="0 0 (\d+) (\d+)"/.exec(picture)!.slice(1).map(Number) as [number, number];
    // Every cell is drawn, and inside: those of the divergences, and of the weights.
    const cells = [...picture.matchAll(/M(\d+) (\d+)h(\d+)v(\d+)/g)].map((cell) => cell.slice(1).map(Number));
    t.is(cells.length, L * M * (1 + tokens));
    t.true(cells.every(([x, y, w, h]) => x! + w! <= width && y! + h! <= height));
    t.is(picture.split(">&#60;a&#38;b&#62;<").length - 1, Math.ceil(tokens / 5));
  }
});

test("the deepest colour is the largest weight's, and cells stand by their tokens", (t) => {
  const found = inspectionOf(3, 1, 2);
  found.attention = [
    [
      [0.9, 0.1],
      [0.5, 0.5],
      [0.1, 0.9],
    ],
  ];
  const picture = thoughtPicture(found, (id) => `token${id}`);
  const places = (path: string) =>
    [...path.matchAll(/M([\d.]+) ([\d.]+)h12v/g)].map(([, x, y]) => [Number(x), Number(y)]);
  const deepest = places(/fill-opacity="1.00" d="([^"]+)"/.exec(picture)![1]!);
  const heightOf = (token: number) => Number(new RegExp(`y="(\\d+)">token${token}<`).exec(picture)![1]);
  t.is(deepest.length, 2);
  const [[left, first], [right, last]] = deepest as [[number, number], [number, number]];
  t.true(left < right);
  t.is(last - first, heightOf(2) - heightOf(0));
  t.regex(picture, /0\.10 to 0\.90/);
});

test("on the command line: a table, a picture, a document", async (t) => {
  const path = await folder();
  const svg = join(await scratch(), "thought.svg");
  const looked = await noema("inspect", path, "--text", "abc<a&b>", "--svg", svg);
  t.is(looked.error, "");
  const [titles, ...rows] = looked.out.trimEnd().split("\n");
  t.regex(titles!, /^read up to +nats\/token +right +rebuilt +KL +of its vectors +attended most$/);
  t.is(rows.length, 3);
  t.regex(rows[0]!, /^no layer +\d+\.\d{3} +\d+ % +\d+ %$/);
  t.regex(rows[2]!, /^layer 1 +\d+\.\d{3} +\d+ % +\d+ % +\d+\.\d +\d+\.\d \d+\.\d +vector [01], \d+ %$/);
  const picture = await readFile(svg, "utf8");
  t.is(xmlFault(picture), undefined);
  t.false(picture.includes("<a&b>"));
  const { attention, byLayers, curve } = JSON.parse((await noema("inspect", path, "--text", "abc", "--json")).out);
  t.is(attention[1][2].length, 2);
  t.is(byLayers.length, 3);
  t.is(curve.kl.length, 5);
  t.regex((await noema("inspect", path, "--text", "")).error, /0 tokens/);
});

test("on the command line: a thought that took more steps is kept, and guides a text", async (t) => {
  const path = await folder();
  const file = join(await scratch(), "thought.safetensors");
  const looked = await noema("inspect", path, "--text", "abcabc", "--think", "6", "--save", file, "--json");
  t.is(JSON.parse(looked.out).curve.kl.length, 7);
  const text = await noema("generate", path, "--prompt", "abc", "--max-tokens", "4", "--thought", file);
  t.is(text.error, "");
  t.regex((await noema("inspect", path, "--save", file)).error, /--save is about what is in a text: give --text/);
  t.regex((await noema("inspect", path, "--svg", file)).error, /give --text/);
  const other = join(await scratch(), "other.safetensors");
  await noema("inspect", path, "--text", "cabd", "--save", other);
  const mixed = ["--thought", file, "--toward", other, "--share", "0.25", "--layers", "1"];
  const written = await noema("generate", path, "--prompt", "abc", "--max-tokens", "12", ...mixed);
  await using engine = await createEngine({ threads: 1 });
  await using model = await engine.load(path, { family: "thought" });
  const between = model.between(await model.loadThought(file), await model.loadThought(other), 0.25);
  const thought = model.onlyLayers(between, [1]);
  t.is(written.out, `${(await model.generate({ prompt: "abc", maxTokens: 12, thought })).text}\n`);
  const quiet = await noema("generate", path, "--prompt", "", "--max-tokens", "12", "--prior-scale", "0");
  t.is(quiet.out, `${(await model.generate({ maxTokens: 12, priorScale: 0 })).text}\n`);
  const refused = async (message: RegExp, ...flags: string[]) =>
    t.regex((await noema("generate", path, "--prompt", "a", ...flags)).error, message);
  await refused(/--toward: expected --thought/, "--toward", other);
  await refused(/--share: expected --toward/, "--thought", file, "--share", "0.5");
  await refused(/--layers: expected --thought/, "--layers", "0");
  await refused(/layers: expected an integer from 0 to 1/, "--thought", file, "--layers", "2");
  await refused(/--share: "x" is no number/, "--thought", file, "--toward", other, "--share", "x");
});
