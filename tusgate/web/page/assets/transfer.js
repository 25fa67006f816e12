/** One file on its way: the states that the page shows, whichever door its bytes go through. */

import { Speed } from "./speed.js";

/**
 * WAITING for its turn → RUNNING ⇄ RETRYING → FINISHED. A person moves it to PAUSED and back to WAITING, or
 * to CANCELLING → CANCELLED. FAILED is what trying again by itself does not heal.
 */
export const State = Object.freeze({
  WAITING: "waiting",
  RUNNING: "running",
  RETRYING: "retrying",
  PAUSED: "paused",
  FAILED: "failed",
  FINISHED: "finished",
  CANCELLING: "cancelling",
  CANCELLED: "cancelled",
});

/**
 * Sends one file. Fires "change" when the state changed and "progress" when bytes went out.
 *
 * A carrier moves the bytes: it has `url`, `start()`, which goes on from what is there, `pause()`, and `cancel()`,
 * which throws an Error for a person; it tells of `sent(bytes)`, `interrupted()`, `finished()` and `failed(problem)`.
 */
export class Transfer extends EventTarget {
  #carrier;
  #speed = new Speed();
  #state = State.WAITING;

  constructor(file, makeCarrier) {
    super();
    this.name = file.name;
    this.size = file.size;
    /** Bytes handed to the network; the other side may have stored a little less. */
    this.sent = 0;
    /** Why it is FAILED, in words for a person. */
    this.problem = "";
    this.#carrier = makeCarrier(file, {
      sent: (bytes) => this.#progressed(bytes),
      interrupted: () => this.#interrupted(),
      finished: () => this.#become(State.FINISHED),
      failed: (problem) => this.#failed(problem),
    });
  }

  get state() {
    return this.#state;
  }

  /** Where the upload lives; null before it was created. */
  get url() {
    return this.#carrier.url;
  }

  get bytesPerSecond() {
    return this.#state === State.RUNNING ? this.#speed.bytesPerSecond : null;
  }

  /** Seconds to go at the present speed; null when unknown. */
  get secondsLeft() {
    const speed = this.bytesPerSecond;
    return speed ? (this.size - this.sent) / speed : null;
  }

  /** Begin, or go on from what is there, also if that was sent before the browser was closed. */
  start() {
    this.#speed.reset();
    this.#become(State.RUNNING);
    this.#carrier.start();
  }

  /** Stop sending; what was sent is kept. */
  pause() {
    this.#become(State.PAUSED);
    this.#carrier.pause();
  }

  /** Wait for the turn to `start` again. */
  wait() {
    this.#become(State.WAITING);
  }

  /** Do not wait for the next try: the connection is back. */
  retryNow() {
    if (this.#state !== State.RETRYING) return;
    this.#carrier.pause();
    this.start();
  }

  /** Stop, and delete what was sent. FAILED when that is not confirmed. */
  async cancel() {
    this.#become(State.CANCELLING);
    try {
      await this.#carrier.cancel();
      this.#become(State.CANCELLED);
    } catch (error) {
      this.#failed(error.message);
    }
  }

  #become(state) {
    this.#state = state;
    this.dispatchEvent(new Event("change"));
  }

  #progressed(sent) {
    if (sent < this.sent) this.#speed.reset(); // less had arrived than was handed to the network
    this.sent = sent;
    this.#speed.add(sent, performance.now());
    if (this.#state === State.RETRYING) this.#become(State.RUNNING);
    this.dispatchEvent(new Event("progress"));
  }

  #interrupted() {
    if (this.#state !== State.RUNNING) return;
    this.#speed.reset();
    this.#become(State.RETRYING);
  }

  #failed(problem) {
    this.problem = problem;
    this.#become(State.FAILED);
  }
}
