/** Lets a few files go at a time, in the order in which they were chosen. */

import { State } from "./transfer.js";

const AT_ONCE = 3;
const ACTIVE = [State.RUNNING, State.RETRYING];

export class Queue {
  #transfers = [];

  /** Transfers that are neither finished nor cancelled. */
  get open() {
    return this.#transfers.filter(({ state }) => state !== State.FINISHED && state !== State.CANCELLED);
  }

  add(transfer) {
    this.#transfers.push(transfer);
    transfer.addEventListener("change", () => this.#fill());
    this.#fill();
  }

  /** Try again now what waits for the next try. */
  retryNow() {
    for (const transfer of this.#transfers) transfer.retryNow();
  }

  #fill() {
    const free = AT_ONCE - this.#transfers.filter(({ state }) => ACTIVE.includes(state)).length;
    const next = this.#transfers.find(({ state }) => state === State.WAITING);
    if (free > 0 && next) next.start(); // its change of state comes back here for the one after it
  }
}
