/** What owns native memory: disposed once, together with everything made from it, and unusable afterwards. */

import { NoemaError } from "./errors.js";

/** Something that a handle made and that must end before it does. */
export interface Child {
  /** Ends the child; `settled` resolves when it has let go of its parent. */
  dispose(): void;
  readonly settled: Promise<void>;
}

export abstract class Handle implements Disposable, AsyncDisposable, Child {
  readonly #name: string;
  readonly #children = new Set<Child>();
  #end: Promise<void> | undefined;

  constructor(name: string) {
    this.#name = name;
  }

  get disposed(): boolean {
    return this.#end !== undefined;
  }

  /** Resolves when a dispose has run to its end; at once when there was none. */
  get settled(): Promise<void> {
    return this.#end ?? Promise.resolve();
  }

  /** Ends what was made from this handle, then frees it. Disposing twice is fine. */
  dispose(): void {
    this.#end ??= this.#close();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Disposes and waits until the memory is free. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
    await this.settled;
  }

  /** Throws ERR_DISPOSED once the handle is gone. */
  protected check(): void {
    if (this.disposed) throw disposed(this.#name);
  }

  /** @internal */
  protected adopt<C extends Child>(child: C): C {
    this.#children.add(child);
    return child;
  }

  /** @internal */
  protected release(child: Child): void {
    this.#children.delete(child);
  }

  /** Frees what the handle owns; called once, when no child is left. */
  protected abstract free(): void;

  /** Frees at once when nothing runs: then memory is back when a plain `dispose()` returns. */
  #close(): Promise<void> {
    const waiting = [...this.#children];
    for (const child of waiting) child.dispose();
    if (this.#children.size === 0) {
      this.free();
      return Promise.resolve();
    }
    return Promise.allSettled(waiting.map(({ settled }) => settled)).then(() => this.free());
  }
}

export function disposed(name: string): NoemaError {
  return new NoemaError("ERR_DISPOSED", `the ${name} was disposed`);
}
