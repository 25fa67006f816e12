/** The direct uploads that this browser began and did not finish. */

const PREFIX = "tusgate::direct::";

/** Remember that `file` is on its way as `upload`, which is what the gateway shows of it. */
export function rememberDirect(fingerprint, file, upload) {
  const entry = { name: file.name, size: file.size, url: upload.links.self };
  localStorage.setItem(PREFIX + fingerprint, JSON.stringify(entry));
}

/** Forget the upload of a file; what gateway and store hold of it is not touched. */
export function forgetDirect(fingerprint) {
  localStorage.removeItem(PREFIX + fingerprint);
}

/** Unfinished direct uploads of files with this `endpoint` in their fingerprint. */
export function storedDirectUploads(endpoint) {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX) && key.endsWith(`-${endpoint}`));
  return keys.map((key) => new StoredDirectUpload(key.slice(PREFIX.length), JSON.parse(localStorage.getItem(key))));
}

class StoredDirectUpload {
  isDirect = true;
  #url;

  constructor(fingerprint, { name, size, url }) {
    this.fingerprint = fingerprint;
    this.name = name;
    this.size = size;
    this.#url = url;
  }

  /**
   * Ask the gateway how much of the upload the store has.
   *
   * Returns bytes, "over" when there is nothing to go on with, or null when nobody can tell now. All bytes are no end:
   * the file is made when the page says that they are all there.
   */
  async standing() {
    try {
      const answer = await fetch(this.#url, { cache: "no-store" });
      if (answer.status === 404 || answer.status === 410) return "over";
      if (!answer.ok) return null;
      const upload = await answer.json();
      return upload.state === "uploading" ? await storedBytes(upload.links.parts) : "over";
    } catch {
      return null; // no connection: the upload may well be there
    }
  }

  forget() {
    forgetDirect(this.fingerprint);
  }

  /** Delete the upload and forget it. Throws when the gateway did not confirm. */
  async discard() {
    const answer = await fetch(this.#url, { method: "DELETE" });
    if (!answer.ok && answer.status !== 404 && answer.status !== 410) {
      throw new Error(`the server answered ${answer.status}`);
    }
    this.forget();
  }
}

async function storedBytes(address) {
  let bytes = 0;
  for (let after = 0; after !== null; ) {
    const answer = await fetch(`${address}?after=${after}`, { cache: "no-store" });
    if (!answer.ok) return null;
    const page = await answer.json();
    for (const part of page.parts) if (part.etag !== null && part.wrong.length === 0) bytes += part.size;
    after = page.next_after;
  }
  return bytes;
}
