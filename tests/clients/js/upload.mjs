/**
 * Upload one file with tus-js-client and write what happens to stdout, one JSON object per line.
 *
 * The only argument is JSON: `endpoint`, `file`, and optionally `options` (of tus-js-client), `stream` (read the
 * file as a stream of unknown size), `buffer` (read it into memory first), `store` (file for resumable URLs; what it
 * knows is resumed), `dieAt` (end this process like `kill -9` once that many bytes have been sent) and `again` (start
 * the same upload so many times more after an error, as people do who press "try again").
 *
 * Lines: {request, status, offset} for each answer, {url} when there is one, and {done} or {error} at the end.
 */

import { createReadStream, readFileSync, writeSync } from "node:fs";
import { PassThrough } from "node:stream";
import * as tus from "tus-js-client";

const { endpoint, file, options = {}, stream = false, buffer = false, store = null, dieAt = Infinity, again = 0 } = JSON.parse(process.argv[2]);

// Synchronous: a line must not be lost with the process.
const report = (line) => writeSync(1, `${JSON.stringify(line)}\n`);

const readable = () => (stream ? createReadStream(file).pipe(new PassThrough()) : createReadStream(file));
let left = again;
const source = buffer ? readFileSync(file) : readable();
const upload = new tus.Upload(source, {
  endpoint,
  retryDelays: [0, 100, 200, 400, 800, 1600],
  metadata: { filename: "payload.bin", filetype: "application/octet-stream" },
  ...(store && { urlStorage: new tus.FileUrlStorage(store) }),
  ...options,
  onUploadUrlAvailable: () => report({ url: upload.url }),
  onAfterResponse: (request, response) =>
    report({
      request: request.getMethod(),
      status: response.getStatus(),
      offset: Number(request.getHeader("Upload-Offset") ?? response.getHeader("Upload-Offset")),
    }),
  onProgress: (sent) => {
    if (sent >= dieAt) process.kill(process.pid, "SIGKILL");
  },
  onSuccess: () => report({ done: upload.url }),
  onError: (error) => {
    if (left-- > 0) return upload.start();
    report({ error: error.message });
    process.exitCode = 1;
  },
});

if (store) {
  const [previous] = await upload.findPreviousUploads();
  if (previous) upload.resumeFromPreviousUpload(previous);
}
upload.start();
