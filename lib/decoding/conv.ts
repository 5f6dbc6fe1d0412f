/**
 * Convolutional decoding (Conv, arXiv 2509.15188): text grows from text. Each masked position i has a factor
 *
 *   s_i = g(multiplier * u_i),  u_i = unmasked positions among the `kernel` centred on i
 *
 * so that positions near known text go first without the hard edges of blocks. Two forms:
 *
 * - confidence: proposals are ranked by s_i * probability, and as many are kept as the schedule says;
 * - ancestral: every position draws among its `candidates` best tokens, with weights p s_i S (t - s), and MASK with
 *   weight s, where S restores the total mass. It may stay masked; what still is after the last step is filled greedily.
 *
 * The kernel is a quarter of the text unless told otherwise, at most 128 (the paper: 256 of 1024 positions, 128 for LLaDA).
 * One that spans the whole text counts the same neighbours everywhere, so it decides nothing.
 *
 * Kernel and multiplier work together. tanh is nearly 1 from an argument of 2 on, so with multiplier 1 two or three known
 * neighbours saturate it and a wide kernel becomes a plain distance cut: within reach everything is equal. A multiplier
 * of about 6 / kernel (0.05 at 128), the default, keeps it rising: a half-filled window on one side, kernel / 2 known
 * positions, then gives tanh(3).
 *
 * Where no masked position has a known one within reach (an empty prompt), all s_i are 0 and would decide nothing: the
 * confidence form then ranks by probability alone, the ancestral form picks as ancestral decoding does.
 */

import type { ConvolutionalDraw, Draw } from "../native/addon.js";
import { RngStream } from "../rng.js";
import { invalid } from "./options.js";
import type { ClosedPolicy, Moment, Observed, OwnOptions, PolicyDefinition } from "./policy.js";
import { highest } from "./rank.js";

/** Time at the last step of the ancestral form, as released. */
const lastTime = 1e-5;

export const conv: PolicyDefinition = {
  name: "conv",
  summary: "keeps the proposals near known text: probability times a convolution over what is unmasked (Conv)",
  options: {
    kernel: {
      kind: "number",
      integer: true,
      min: 1,
      max: 65535,
      what: "positions that the window spans; a quarter of the text, at most 128",
    },
    multiplier: {
      kind: "number",
      min: 0,
      above: true,
      max: 100,
      what: "factor on the count of neighbours; 6 / kernel",
    },
    shape: {
      kind: "choice",
      choices: ["tanh", "linear", "exponential"],
      default: "tanh",
      what: "g, from neighbours to factor",
    },
    form: {
      kind: "choice",
      choices: ["confidence", "ancestral"],
      default: "confidence",
      what: "rank proposals, or draw each position",
    },
    candidates: {
      kind: "number",
      integer: true,
      min: 1,
      max: 1023,
      default: 5,
      what: "tokens among which the ancestral form draws",
    },
  },
  defaults: ({ form }) => ({ temperature: form === "ancestral" ? 1 : 0 }),
  create: (options, draw) => {
    const windowAt = windowOf(options);
    if (options["form"] === "confidence") return confidenceForm(windowAt);
    refuseCuts(draw);
    return ancestralForm(windowAt, options["candidates"] as number, draw.temperature);
  },
};

type Window = Pick<ConvolutionalDraw, "kernel" | "multiplier" | "shape">;
type WindowOf = (moment: Moment) => Window;

const widestKernel = 128;

function windowOf({ kernel, multiplier, shape }: OwnOptions): WindowOf {
  return ({ length }) => {
    const width = (kernel as number | undefined) ?? Math.min(widestKernel, Math.max(3, Math.round(length / 4)));
    return {
      kernel: width % 2 === 1 ? width : width + 1, // centred windows are odd
      multiplier: (multiplier as number | undefined) ?? Math.min(1, 6 / width),
      shape: shape as Window["shape"],
    };
  };
}

/** topK and topP would have no effect on this form, and options without effect mislead. */
function refuseCuts({ topK, topP }: Draw): void {
  if (topK > 0) throw invalid("decoding.topK", topK, 'no topK with form "ancestral": its option is candidates');
  if (topP < 1) throw invalid("decoding.topP", topP, 'no topP with form "ancestral": its option is candidates');
}

function confidenceForm(windowAt: WindowOf): ClosedPolicy {
  return {
    kind: "closed",
    ask: (moment) => ({ neighbourhood: windowAt(moment) }),
    choose: ({ confidence, neighbourhood, count }) => highest(weigh(confidence, neighbourhood!), count),
  };
}

/** s_i * confidence in f32, or the confidence alone when all s_i are 0. */
export function weigh(confidence: Float32Array, neighbourhood: Float32Array): Float32Array {
  if (neighbourhood.every((s) => s === 0)) return confidence;
  return confidence.map((probability, i) => probability * neighbourhood[i]!);
}

function ancestralForm(windowAt: WindowOf, candidates: number, temperature: number): ClosedPolicy {
  // With nothing known, or a window that holds its centre alone, every s_i is 0.
  const blind = (moment: Moment): boolean => moment.known === 0 || windowAt(moment).kernel === 1;
  return {
    kind: "closed",
    leavesMasks: true,
    ask: (moment) =>
      blind(moment) ? {} : { convolution: { ...windowAt(moment), candidates, temperature, ...moves(moment) } },
    choose: (observed) => (blind(observed) ? pickBlindly(observed) : observed.positions.map((_, i) => i)),
  };
}

/** Each position with probability (t - s) / t, as in ancestral decoding. */
function pickBlindly(observed: Observed): number[] {
  const { move, stay } = moves(observed);
  const moved = (at: number): boolean =>
    observed.rng.uniform(RngStream.order, observed.step, at, 0) < move / (move + stay);
  return observed.positions.flatMap((at, i) => (moved(at) ? [i] : []));
}

/** t - s and s, for times from 1 to `lastTime` in equal steps, rounded to f32 as the released code does. */
export function moves({ index, of }: Pick<Moment, "index" | "of">): { move: number; stay: number } {
  const t = Math.fround(1 + ((lastTime - 1) * index) / of);
  const stay = Math.max(0, Math.fround(t - (1 - lastTime) / of));
  return { move: Math.fround(t - stay), stay };
}
