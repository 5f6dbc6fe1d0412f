import test from "ava";
import { cancellable, orAborted } from "../../lib/cancellation.js";
import { NoemaError } from "../../lib/errors.js";
import { rejection } from "../support/fake-addon.js";

const host = { createCancellation: () => ({ cancel: () => {} }) };

test("work that leaves something never leaves it on the reason, which other work may share", async (t) => {
  const controller = new AbortController();
  const leaving = (partial: string) =>
    cancellable(host, controller.signal, async () => {
      controller.abort();
      throw Object.assign(new NoemaError("ERR_ABORTED", "cancelled"), { partial });
    });
  const first = await rejection<NoemaError & { partial: string }>(leaving("mine"));
  t.like(first, { code: "ERR_ABORTED", partial: "mine", cause: controller.signal.reason });
  t.false("partial" in controller.signal.reason);
  t.is(await rejection<unknown>(leaving("never begun")), controller.signal.reason);
});

test("who waits for the same promise gets an error of his own", async (t) => {
  const shared = Promise.reject(new NoemaError("ERR_NOT_CONVERGED", "no inverse", { flow: 1 }));
  const { signal } = new AbortController();
  const [a, b] = await Promise.all([rejection(orAborted(shared, signal)), rejection(orAborted(shared, signal))]);
  t.not(a, b);
  for (const error of [a, b]) t.like(error, { code: "ERR_NOT_CONVERGED", message: "no inverse", details: { flow: 1 } });
});
