/** Carries one file through the gateway, by tus-js-client. */

// Half an hour without any progress, then it has failed. Progress begins the series anew.
const RETRY_DELAYS = [0, 1000, 3000, 5000, 10000, ...new Array(60).fill(30000)];

const GONE = [404, 410];

export class TusCarrier {
  #upload;
  #events;
  #isWanted = false;

  constructor(file, events, endpoint) {
    this.#events = events;
    this.#upload = new tus.Upload(file, {
      endpoint,
      metadata: metadataOf(file),
      retryDelays: RETRY_DELAYS,
      removeFingerprintOnSuccess: true,
      onAfterResponse: keepUploadUnlessGone,
      onShouldRetry: (error) => this.#shouldRetry(error),
      onProgress: (sent) => events.sent(sent),
      onSuccess: () => events.finished(),
      onError: (error) => events.failed(explain(error)),
    });
  }

  get url() {
    return this.#upload.url;
  }

  async start() {
    this.#isWanted = true;
    if (this.url === null) {
      const previous = await this.#upload.findPreviousUploads();
      if (previous.length > 0) this.#upload.resumeFromPreviousUpload(previous[previous.length - 1]);
    }
    if (this.#isWanted) this.#upload.start();
  }

  pause() {
    this.#isWanted = false;
    this.#upload.abort();
  }

  async cancel() {
    this.#isWanted = false;
    try {
      await this.#upload.abort(true);
    } catch (error) {
      if (!GONE.includes(statusOf(error))) throw new Error(explain(error));
    }
  }

  #shouldRetry(error) {
    const status = statusOf(error);
    const helps = status < 400 || status >= 500 || [409, 423, 429].includes(status);
    if (helps && this.#isWanted) this.#events.interrupted();
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
