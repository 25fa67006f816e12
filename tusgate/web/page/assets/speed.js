/** How fast bytes go, averaged over the last seconds so that the number can be read. */

const WINDOW = 5000; // ms

export class Speed {
  #samples = [];

  /** Forget the past: the next sample is a new beginning. */
  reset() {
    this.#samples = [];
  }

  /** Note that `bytes` in all have been sent at time `now` (ms). */
  add(bytes, now) {
    this.#samples.push({ bytes, now });
    while (now - this.#samples[0].now > WINDOW) this.#samples.shift();
  }

  /** Bytes per second, or null while that is not known. */
  get bytesPerSecond() {
    if (this.#samples.length < 2) return null;
    const first = this.#samples[0];
    const last = this.#samples[this.#samples.length - 1];
    const elapsed = last.now - first.now;
    return elapsed < 250 ? null : ((last.bytes - first.bytes) * 1000) / elapsed;
  }
}
