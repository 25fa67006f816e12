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

/** Unfinished uploads to `endpoint` through the gateway. */
export async function storedUploads(endpoint) {
  const entries = (await urlStorage.findAllUploads()).filter((entry) => entry.uploadUrl);
  return entries.map((entry) => new StoredUpload(entry)).filter((upload) => upload.fingerprint.endsWith(`-${endpoint}`));
}

class StoredUpload {
  isDirect = false;
  #entry;

  constructor(entry) {
    this.#entry = entry;
    this.fingerprint = fingerprintOf(entry.urlStorageKey);
    this.name = entry.metadata.filename;
    this.size = entry.size;
  }

  /**
   * Ask the gateway how far the upload is.
   *
   * Returns the offset, "over" when there is nothing to go on with, or null when the gateway cannot tell now.
   */
  async standing() {
    try {
      const answer = await fetch(this.#entry.uploadUrl, {
        method: "HEAD",
        headers: { "Tus-Resumable": "1.0.0" },
        cache: "no-store",
      });
      if (answer.status === 404 || answer.status === 410) return "over";
      const offset = Number.parseInt(answer.headers.get("Upload-Offset") ?? "", 10);
      if (!answer.ok || Number.isNaN(offset)) return null;
      return offset === this.size ? "over" : offset; // it was finished, and only the answer got lost
    } catch {
      return null; // no connection: the upload may well be there
    }
  }

  /** Forget the upload; what the gateway holds of it is not touched. */
  forget() {
    return urlStorage.removeUpload(this.#entry.urlStorageKey);
  }

  /** Delete the upload on the gateway and forget it. Throws when the gateway did not confirm. */
  async discard() {
    const answer = await fetch(this.#entry.uploadUrl, { method: "DELETE", headers: { "Tus-Resumable": "1.0.0" } });
    if (!answer.ok && answer.status !== 404 && answer.status !== 410) {
      throw new Error(`the server answered ${answer.status}`);
    }
    await this.forget();
  }
}

function fingerprintOf(urlStorageKey) {
  return urlStorageKey.slice(PREFIX.length, urlStorageKey.lastIndexOf("::"));
}
