/** Second and fourth moments of a stream of values. */
export class Moments {
  #count = 0;
  #second = 0;
  #fourth = 0;

  add(values: ArrayLike<number>): void {
    this.#count += values.length;
    for (let i = 0; i < values.length; i++) {
      const square = values[i]! * values[i]!;
      this.#second += square;
      this.#fourth += square * square;
    }
  }

  get meanSquare(): number {
    return this.#second / this.#count;
  }

  /** 3 for a normal distribution about 0. */
  get kurtosis(): number {
    return (this.#fourth * this.#count) / (this.#second * this.#second);
  }
}
