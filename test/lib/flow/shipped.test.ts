import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import test from "ava";
import { createEngine, type FlowModel } from "../../../lib/index.js";
import { latentNoise } from "../../../lib/normals.js";

const STORY = "Once upon a time, there was a little girl named Lily. She had a red ball that she loved very much.";

/** What each of the flows that come with noema is held to. */
const shipped = [
  { name: "tales-flow", mostNats: 3.5, levels: [{ level: 1, least: 0.9, most: 1 }] },
  { name: "tales-letters", mostNats: 1.6, levels: [{ level: 1, least: 0.5, most: 0.95 }] },
];

for (const { name, mostNats, levels } of shipped) {
  const folder = join("models", name);

  const opened = async (threads: number, work: (model: FlowModel) => Promise<void>) => {
    await using engine = await createEngine({ threads });
    await using model = await engine.load(folder, { family: "flow" });
    await work(model);
  };

  test(`${name}: a story is likely to it, and comes back from noise token by token`, (t) =>
    opened(2, async (model) => {
      const { nats, tokens } = await model.score(STORY, { draws: 8 });
      t.true(nats / tokens < mostNats, `${nats / tokens} nats per token`);
      for (const seed of [1, 2, 3]) {
        const data = await model.encode(STORY, { level: 0, seed });
        const { latents } = await model.encode(STORY, { seed });
        const back = await model.decode({ latents });
        t.is(back.text.toLowerCase(), STORY.toLowerCase());
        t.deepEqual(back.ids, data.ids);
        t.deepEqual(back.latents, data.latents, "to the bit");
      }
    }));

  test(`${name}: its states read as its card says, and base noise as nothing`, (t) =>
    opened(2, async (model) => {
      const { levels: states } = await model.inspect(STORY);
      for (const { level, least, most } of levels) {
        const { accuracy } = states[level]!.reading!;
        t.true(accuracy >= least && accuracy <= most, `${accuracy}`);
      }
      t.true(states.at(-1)!.reading!.accuracy < 0.5);
    }));

  test(`${name}: one text of a seed, whatever the threads, the batch and the way of inverting`, async (t) => {
    const options = { prompt: "Once upon a time", documentStart: true, maxTokens: 20, seed: 1 };
    let text = "";
    await opened(1, async (model) => {
      ({ text } = await model.generate(options));
      t.regex(text, /[a-z]/);
    });
    await opened(2, async (model) => {
      t.is((await model.generate(options)).text, text);
      const swept = await model.generate({ ...options, inversion: "jacobi" });
      t.true(swept.residual! < 1e-3);
      t.is(swept.text, text);
      const { prompt, ...shared } = options;
      const texts = await model.generateBatch({ ...shared, prompts: ["The", prompt, "A"], seed: 0 });
      t.is(texts[1]!.text, text);
      t.is((await model.generate({ ...options, ancestral: true })).ids.length, 20);
    });
  });

  for (const precision of ["f32", "bf16"] as const)
    test(`${name}: every way of inverting finds the same, to the bit, of noise, too; bodies in ${precision}`, async (t) => {
      await using engine = await createEngine({ threads: 2 });
      await using model = await engine.load(folder, { family: "flow", precision });
      const noise = latentNoise(5, 96 * model.info.config.latentSize);
      const sequential = await model.decode({ latents: noise });
      for (const modules of [1, 6]) {
        const plan = { method: "jacobi", modules } as const;
        const swept = await model.decode({ latents: noise, inversion: [plan, plan] });
        t.deepEqual(swept.latents, sequential.latents, `${modules}`);
        t.deepEqual(swept.ids, sequential.ids);
      }
    });

  test(`${name}: 20 MB at most`, async (t) => {
    let bytes = 0;
    for (const file of await readdir(folder)) bytes += (await stat(join(folder, file))).size;
    t.true(bytes < 20e6, `${bytes}`);
  });
}
