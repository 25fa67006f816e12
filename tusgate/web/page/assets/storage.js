/** The uploads that this browser began and did not finish, as tus-js-client remembers them. */

const PREFIX = "tus::";
const urlStorage = tus.defaultOptions.urlStorage;

/** What a file is recognised by: name, type, size, date of change and endpoint, but not its content. */
export function fingerprint(file, endpoint) {
  return tus.defaultOptions.fingerprint(file, { endpoint });
}

/** A name for this browser: two that send files of one name, size and date must not go on with each other's. */
export function browserName() {
  const key = "tusgate::browser";
  const random = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16)).join("");
  const name = localStorage.getItem(key) ?? random();
  localStorage.setItem(key, name);
  return name;
}

/** Unfinished uploads to `endpoint`: the fields of tus-js-client and their `fingerprint`. */
export async function storedUploads(endpoint) {
  const entries = await urlStorage.findAllUploads();
  return entries
    .filter((entry) => entry.uploadUrl)
    .map((entry) => ({ ...entry, fingerprint: fingerprintOf(entry.urlStorageKey) }))
    .filter((entry) => entry.fingerprint.endsWith(`-${endpoint}`));
}

/** Forget an upload; what the gateway holds of it is not touched. */
export function forget(entry) {
  return urlStorage.removeUpload(entry.urlStorageKey);
}

/**
 * Ask the gateway how far an upload is.
 *
 * Returns the offset, "gone" when it no longer exists, or null when the gateway cannot tell now.
 */
export async function offsetOf(entry) {
  try {
    const answer = await fetch(entry.uploadUrl, {
      method: "HEAD",
      headers: { "Tus-Resumable": "1.0.0" },
      cache: "no-store",
    });
    if (answer.status === 404 || answer.status === 410) return "gone";
    const offset = Number.parseInt(answer.headers.get("Upload-Offset") ?? "", 10);
    return answer.ok && !Number.isNaN(offset) ? offset : null;
  } catch {
    return null; // no connection: the upload may well be there
  }
}

/** Delete the upload on the gateway and forget it. Throws when the gateway did not confirm. */
export async function discard(entry) {
  const answer = await fetch(entry.uploadUrl, { method: "DELETE", headers: { "Tus-Resumable": "1.0.0" } });
  if (!answer.ok && answer.status !== 404 && answer.status !== 410) {
    throw new Error(`the server answered ${answer.status}`);
  }
  await forget(entry);
}

function fingerprintOf(urlStorageKey) {
  return urlStorageKey.slice(PREFIX.length, urlStorageKey.lastIndexOf("::"));
}
