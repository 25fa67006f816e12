/** One file on its way to the gateway: tus-js-client's upload with the states that the page shows. */

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

// Half an hour without any progress, then it is FAILED. Progress begins the series anew.
const RETRY_DELAYS = [0, 1000, 3000, 5000, 10000, ...new Array(60).fill(30000)];

const GONE = [404, 410];

/** Sends one file. Fires "change" when the state changed and "progress" when bytes went out. */
export class Transfer extends EventTarget {
  #upload;
  #speed = new Speed();
  #state = State.WAITING;

  constructor(file, endpoint) {
    super();
    this.name = file.name;
    this.size = file.size;
    /** Bytes handed to the network; the gateway may have stored a little less. */
    this.sent = 0;
    /** Why it is FAILED, in words for a person. */
    this.problem = "";
    this.#upload = new tus.Upload(file, {
      endpoint,
      metadata: metadataOf(file),
      retryDelays: RETRY_DELAYS,
      removeFingerprintOnSuccess: true,
      onAfterResponse: keepUploadUnlessGone,
      onShouldRetry: (error) => this.#shouldRetry(error),
      onProgress: (sent) => this.#progressed(sent),
      onSuccess: () => this.#become(State.FINISHED),
      onError: (error) => this.#failed(error),
    });
  }

  get state() {
    return this.#state;
  }

  /** Where the upload lives; null before the gateway has created it. */
  get url() {
    return this.#upload.url;
  }

  get bytesPerSecond() {
    return this.#state === State.RUNNING ? this.#speed.bytesPerSecond : null;
  }

  /** Seconds to go at the present speed; null when unknown. */
  get secondsLeft() {
    const speed = this.bytesPerSecond;
    return speed ? (this.size - this.sent) / speed : null;
  }

  /** Begin, or go on from what the gateway has, also if that was sent before the browser was closed. */
  async start() {
    this.#speed.reset();
    this.#become(State.RUNNING);
    if (this.url === null) {
      const previous = await this.#upload.findPreviousUploads();
      if (previous.length > 0) this.#upload.resumeFromPreviousUpload(previous[previous.length - 1]);
    }
    if (this.#state === State.RUNNING) this.#upload.start();
  }

  /** Stop sending; the gateway keeps what it has. */
  pause() {
    this.#become(State.PAUSED);
    this.#upload.abort();
  }

  /** Wait for the turn to `start` again. */
  wait() {
    this.#become(State.WAITING);
  }

  /** Do not wait for the next try: the connection is back. */
  retryNow() {
    if (this.#state !== State.RETRYING) return;
    this.#upload.abort();
    this.start();
  }

  /** Stop, and delete what the gateway has. FAILED when it does not confirm that. */
  async cancel() {
    this.#become(State.CANCELLING);
    try {
      await this.#upload.abort(true);
    } catch (error) {
      if (!GONE.includes(statusOf(error))) {
        this.#failed(error);
        return;
      }
    }
    this.#become(State.CANCELLED);
  }

  #become(state) {
    this.#state = state;
    this.dispatchEvent(new Event("change"));
  }

  #progressed(sent) {
    if (sent < this.sent) this.#speed.reset(); // the gateway had less than was handed to the network
    this.sent = sent;
    this.#speed.add(sent, performance.now());
    if (this.#state === State.RETRYING) this.#become(State.RUNNING);
    this.dispatchEvent(new Event("progress"));
  }

  #failed(error) {
    this.problem = explain(error);
    this.#become(State.FAILED);
  }

  #shouldRetry(error) {
    const status = statusOf(error);
    const helps = status < 400 || status >= 500 || [409, 423, 429].includes(status);
    if (helps && this.#state === State.RUNNING) {
      this.#speed.reset();
      this.#become(State.RETRYING);
    }
    return helps;
  }
}

function metadataOf(file) {
  // An empty value would end the header with a blank, which Safari refuses to send.
  return file.type ? { filename: file.name, filetype: file.type } : { filename: file.name };
}

/**
 * Make a failed HEAD an error that is retried. tus-js-client would begin a new upload on any status but 423,
 * also on the 502 of a proxy whose gateway restarts, and all that was sent would be lost.
 */
function keepUploadUnlessGone(request, response) {
  const status = response.getStatus();
  if (request.getMethod() === "HEAD" && status >= 400 && status !== 423 && !GONE.includes(status)) {
    throw new Error(`HEAD was answered with ${status}`);
  }
}

function statusOf(error) {
  return error.originalResponse?.getStatus() ?? 0;
}

function explain(error) {
  const status = statusOf(error);
  if (status === 0) return "The server cannot be reached.";
  const reason = error.originalResponse.getBody().split("\n", 1)[0].slice(0, 200);
  return `The server refused the file (${status}). ${reason}`;
}
