/** A consumer's ES module, compiled against the published declarations by test/package.test.ts. */
import {
  type AnyModel,
  type Engine,
  type ErrorCode,
  errorMeanings,
  evaluate,
  type FlowModel,
  type FlowMonitors,
  type FlowShape,
  NoemaError,
  type ReadoutMonitors,
  type TokenDifference,
  train,
} from "noema";

const code: ErrorCode = "ERR_IO";
const error: Error = new NoemaError(code, "cannot read", { path: "x" });
const meaning: string = errorMeanings[code];

if (error instanceof NoemaError) {
  const back: ErrorCode = error.code;
  // @ts-expect-error: a code is one of the list
  const wrong: ErrorCode = "ERR_OTHER";
  // @ts-expect-error: details are read only
  error.details = {};
  console.log(back, wrong, meaning);
}

export async function training(engine: Engine, model: AnyModel): Promise<number> {
  // @ts-expect-error: the schedule is one of a list
  train(engine, { run: "run", corpus: ["text.txt"], tokenizer: "tokenizer.json", schedule: "cosin" });
  await using run = train(engine, {
    run: "run",
    corpus: [{ path: "text.txt", weight: 2 }],
    steps: 10,
    shape: { hidden: 64 },
  });
  for await (const event of run) if (event.type === "step") console.log(event.loss, event.eta);
  const { nats } = await model.score("text", { form: "fixed-count", draws: 4 });
  const { perplexity } = await evaluate(model, ["text.txt"], { onProgress: ({ bound }) => console.log(bound) });
  return nats + perplexity;
}

/** What a consumer names of a stack of flows. */
export async function flows(engine: Engine, model: FlowModel): Promise<TokenDifference[]> {
  const flow: FlowShape = { flows: [{ kind: "affine", direction: "forward", numLayers: 2 }], channelMix: true };
  let monitors: FlowMonitors | undefined;
  let readouts: ReadoutMonitors | undefined;
  for await (const event of train(engine, { run: "run", corpus: ["text.txt"], flow }))
    if (event.type === "held-out") [monitors, readouts] = [event.flows, event.readouts];
  console.log(monitors?.separation, readouts?.accuracy);
  const { differences } = await model.edit({ text: "text", level: 2, latents: [{ position: 0, values: [0, 1] }] });
  return differences.filter(({ after, wanted = after }) => after !== wanted);
}
