/**
 * Carries one file to the object store itself: the gateway signs a URL for each part, and makes a file of them.
 *
 * Depends on nothing, so other pages may take it: `new DirectCarrier(file, events, endpoint, fingerprint)`, with the
 * address of `/api/v1/uploads`. With the same fingerprint an earlier upload of the file goes on, after a reload and on
 * another device. `events` may have `begun(upload)`, too, which is told what the gateway shows of it.
 */

const LEAST_AT_ONCE = 3;
const MOST_AT_ONCE = 8;
const URLS_AT_ONCE = 50;
const PARTS_WISHED = 500;
const SMALLEST_PART = 8 * 1024 * 1024;

// Half an hour without any progress, then it has failed. Progress begins the series anew.
const RETRY_DELAYS = [0, 1000, 3000, 5000, 10000, ...new Array(60).fill(30000)];
const FINISHING_PAUSE = 1000;

/** What the server answers when a try again cannot help. */
class Refused extends Error {
  constructor(status, reason) {
    super(`The server refused the file (${status}). ${reason}`.trim());
    this.status = status;
  }
}

export class DirectCarrier {
  #file;
  #events;
  #endpoint;
  #fingerprint;
  #upload = null; // as the gateway shows it
  #run = null; // AbortController of the present run
  #stored = 0; // bytes of parts that are there
  #moving = new Map(); // part number → bytes handed to the network
  #atOnce = LEAST_AT_ONCE;
  #failures = 0;

  constructor(file, events, endpoint, fingerprint) {
    this.#file = file;
    this.#events = events;
    this.#endpoint = endpoint;
    this.#fingerprint = fingerprint;
  }

  /** The file in the API; null before the upload was created. */
  get url() {
    return this.#upload?.links.file ?? null;
  }

  async start() {
    const run = new AbortController();
    this.#run = run;
    this.#failures = 0; // somebody has said that it is worth another series
    while (!run.signal.aborted) {
      try {
        await this.#bring(run.signal);
        if (!run.signal.aborted) this.#events.finished();
        return;
      } catch (error) {
        if (run.signal.aborted) return;
        if (error instanceof Refused || this.#failures >= RETRY_DELAYS.length) {
          this.#events.failed(error instanceof Refused ? error.message : "The server cannot be reached.");
          return;
        }
        this.#events.interrupted();
        this.#atOnce = Math.max(1, Math.floor(this.#atOnce / 2));
        await pause(RETRY_DELAYS[this.#failures++], run.signal);
      }
    }
  }

  pause() {
    this.#run?.abort();
  }

  async cancel() {
    this.pause();
    if (this.#upload === null) return;
    const answer = await fetch(this.#upload.links.self, { method: "DELETE" }).catch(() => null);
    if (answer === null) throw new Error("The server cannot be reached.");
    if (!answer.ok && ![404, 410].includes(answer.status)) throw await refusal(answer);
  }

  /** Send what is missing, and have the file made of it. */
  async #bring(signal) {
    await this.#find(signal);
    while (this.#upload.state === "uploading") {
      await this.#count(signal);
      for (let after = 0; after !== null; ) {
        const page = await this.#ask(this.#upload.links.urls, { limit: URLS_AT_ONCE, after }, signal);
        await this.#send(page.urls, signal);
        after = page.next_after;
      }
      await this.#complete(signal);
    }
    while (this.#upload.state === "sealed") {
      await pause(FINISHING_PAUSE, signal);
      this.#upload = await this.#ask(this.#upload.links.self, undefined, signal);
    }
    if (this.#upload.state !== "complete") throw new Refused(410, this.#upload.reason ?? "It has ended.");
  }

  /** Find out where the upload stands; begin it unless it is there. */
  async #find(signal) {
    if (this.#upload !== null && (await this.#looked(signal))) return;
    const { name, type, size } = this.#file;
    const wish = Math.max(SMALLEST_PART, Math.ceil(size / PARTS_WISHED));
    const wanted = { size, filename: name, part_size: wish, fingerprint: this.#fingerprint, urls: 0 };
    if (type) wanted.content_type = type;
    const begun = await this.#ask(this.#endpoint, wanted, signal);
    this.#upload = begun.upload;
    this.#events.begun?.(begun.upload);
  }

  /** Look at the upload again, whose end may have been missed; returns false when it is gone. */
  async #looked(signal) {
    try {
      this.#upload = await this.#ask(this.#upload.links.self, undefined, signal);
      return ["uploading", "sealed", "complete"].includes(this.#upload.state);
    } catch (error) {
      if (![404, 410].includes(error.status)) throw error;
      return false;
    }
  }

  /** Find out how much is there already. */
  async #count(signal) {
    this.#moving.clear();
    this.#stored = 0;
    for (let after = 0; after !== null; ) {
      const page = await this.#ask(`${this.#upload.links.parts}?after=${after}`, undefined, signal);
      for (const part of page.parts) if (part.etag !== null && part.wrong.length === 0) this.#stored += part.size;
      after = page.next_after;
    }
    this.#tell();
  }

  async #complete(signal) {
    try {
      this.#upload = await this.#ask(this.#upload.links.complete, {}, signal);
    } catch (error) {
      if (error.status !== 409) throw error;
      throw new Error("the store lacks a part, which is sent again");
    }
  }

  /** Send these parts, some at a time: more as long as they arrive, fewer after one did not. */
  async #send(parts, signal) {
    const waiting = [...parts];
    const running = new Set();
    try {
      while (waiting.length > 0 || running.size > 0) {
        while (waiting.length > 0 && running.size < Math.floor(this.#atOnce)) {
          const sending = this.#put(waiting.shift(), signal).finally(() => running.delete(sending));
          running.add(sending);
        }
        await Promise.race(running);
      }
    } catch (error) {
      await Promise.allSettled(running);
      throw error;
    }
  }

  async #put(part, signal) {
    const bytes = this.#file.slice(part.start, part.start + part.size);
    const status = await put(part, bytes, signal, (sent) => {
      this.#moving.set(part.number, sent);
      this.#tell();
    });
    this.#moving.delete(part.number);
    if (status !== 200) throw new Error(`part ${part.number} was answered with ${status}`); // 403: the URL has expired
    this.#stored += part.size;
    this.#failures = 0;
    this.#atOnce = Math.min(MOST_AT_ONCE, Math.max(LEAST_AT_ONCE, this.#atOnce + 0.5));
    this.#tell();
  }

  #tell() {
    let moving = 0;
    for (const bytes of this.#moving.values()) moving += bytes;
    this.#events.sent(this.#stored + moving);
  }

  /** Ask the gateway; what may pass is an Error, what does not is Refused. */
  async #ask(address, body, signal) {
    const asked = { signal, cache: "no-store" };
    if (body !== undefined) {
      Object.assign(asked, { method: "POST", body: JSON.stringify(body) });
      asked.headers = { "Content-Type": "application/json" };
    }
    const answer = await fetch(address, asked);
    if (answer.ok) return answer.json();
    if (answer.status >= 500 || [423, 429].includes(answer.status)) throw new Error(`answered with ${answer.status}`);
    throw await refusal(answer);
  }
}

/** What a file is told by: its name, size and date, and who has it, as far as that is known. */
export function fingerprintOf(file, owner) {
  const text = `${file.name}\0${file.type}`;
  let hash = 0xcbf29ce484222325n; // FNV-1a, 64 bits
  for (const unit of new TextEncoder().encode(text)) hash = BigInt.asUintN(64, (hash ^ BigInt(unit)) * 0x100000001b3n);
  return `client:${owner}-${hash.toString(16)}-${file.size}-${file.lastModified}`;
}

async function refusal(answer) {
  const problem = await answer.json().catch(() => ({}));
  return new Refused(answer.status, String(problem.detail ?? "").slice(0, 200));
}

/** PUT bytes to a URL; returns the status. fetch() tells nothing of its progress. */
function put({ url, headers }, bytes, signal, progressed) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    request.open("PUT", url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", ({ loaded }) => progressed(loaded));
    request.addEventListener("load", () => resolve(request.status));
    for (const broken of ["error", "abort", "timeout"]) {
      request.addEventListener(broken, () => reject(new Error("the store cannot be reached")));
    }
    request.addEventListener("loadend", () => signal.removeEventListener("abort", stop));
    signal.addEventListener("abort", stop);
    if (signal.aborted) reject(new Error("stopped"));
    else request.send(bytes); // a slice has no type, so no Content-Type goes along that nobody has signed
  });
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const stop = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      resolve();
    };
    const timer = setTimeout(stop, milliseconds);
    signal.addEventListener("abort", stop);
  });
}
