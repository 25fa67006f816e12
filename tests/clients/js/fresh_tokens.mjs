/**
 * Upload one file with tus-js-client and a token that is asked for before each request, as docs/identity.md says.
 *
 * The only argument is JSON: `endpoint`, `file`, `mint` (address that answers with a token) and `options`.
 * Lines are those of upload.mjs.
 */

import { createReadStream, writeSync } from "node:fs";
import * as tus from "tus-js-client";

const { endpoint, file, mint, options } = JSON.parse(process.argv[2]);
const report = (line) => writeSync(1, `${JSON.stringify(line)}\n`);
const freshToken = async () => (await fetch(mint)).text();

const upload = new tus.Upload(createReadStream(file), {
  endpoint,
  retryDelays: [0, 100, 200, 400],
  onBeforeRequest: async (request) => request.setHeader("Authorization", `Bearer ${await freshToken()}`),
  onShouldRetry: (error) => [0, 401, 409, 423].includes(error.originalResponse?.getStatus() ?? 0)
    || error.originalResponse.getStatus() >= 500,
  ...options,
  onAfterResponse: (request, response) => report({ request: request.getMethod(), status: response.getStatus() }),
  onSuccess() {
    report({ done: upload.url });
  },
  onError: (error) => {
    report({ error: error.message });
    process.exitCode = 1;
  },
});
upload.start();
