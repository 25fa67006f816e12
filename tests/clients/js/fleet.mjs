/**
 * Upload one file many times at once with tus-js-client; one JSON line for each upload: {done: url} or {error}.
 *
 * The only argument is JSON: `endpoint`, `file`, `count`, and `options` of tus-js-client.
 */

import { createReadStream } from "node:fs";
import * as tus from "tus-js-client";

const { endpoint, file, count, options } = JSON.parse(process.argv[2]);

for (let number = 0; number < count; number++) {
  const upload = new tus.Upload(createReadStream(file), {
    endpoint,
    ...options,
    onSuccess: () => console.log(JSON.stringify({ done: upload.url })),
    onError: (error) => console.log(JSON.stringify({ error: error.message })),
  });
  upload.start();
}
