/** What is done with files after their upload, as the server tells it: one stream for all of them, and no questions. */

const REMEMBERED = 1000; // files of others, too, are told where nobody is asked who they are
const TYPES = ["upload.completed", "file.processing", "file.ready", "file.failed"];

/**
 * Follows the events of `api`. What is told of a file before anybody wants to know is remembered: it may be ready
 * before the answer to its upload has arrived.
 */
export class Processing {
  #api;
  #news = new Map(); // id → { state, picture }
  #watchers = new Map(); // id → callback

  constructor(api) {
    this.#api = api;
    const stream = new EventSource(`${api}/events`);
    for (const type of TYPES) {
      stream.addEventListener(type, (event) => this.#heard(type, JSON.parse(event.data).data.upload));
    }
  }

  /** Call `show({ state, picture })` when there is news of the upload at `url`, also what is known already. */
  watch(url, show) {
    const id = url.split("/").pop();
    this.#watchers.set(id, show);
    this.#tell(id);
  }

  #heard(type, upload) {
    if (type === "upload.completed") {
      if (upload.derived_from && upload.content_type?.startsWith("image/")) {
        this.#note(upload.derived_from, { picture: this.#contentOf(upload.id) }); // before or after it is ready
      }
    } else {
      this.#note(upload.id, { state: upload.processing });
    }
  }

  #note(id, news) {
    const known = this.#news.get(id);
    this.#news.delete(id); // what is new comes last
    this.#news.set(id, { ...known, ...news });
    if (this.#news.size > REMEMBERED) this.#news.delete(this.#news.keys().next().value);
    this.#tell(id);
  }

  #tell(id) {
    const news = this.#news.get(id);
    if (news?.state) this.#watchers.get(id)?.(news);
  }

  #contentOf(id) {
    return `${this.#api}/files/${id}/content?disposition=inline`;
  }
}
