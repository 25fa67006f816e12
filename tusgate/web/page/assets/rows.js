/** The rows of both lists: what a person sees of an upload and can do with it. */

import { formatBytes, formatDuration, percent } from "./format.js";
import { State } from "./transfer.js";

const template = document.getElementById("upload-row");

/** What the main button does in each state; states without an entry have none. */
const MAIN_ACTION = {
  [State.WAITING]: { label: "Pause", run: (transfer) => transfer.pause() },
  [State.RUNNING]: { label: "Pause", run: (transfer) => transfer.pause() },
  [State.RETRYING]: { label: "Pause", run: (transfer) => transfer.pause() },
  [State.PAUSED]: { label: "Resume", run: (transfer) => transfer.wait() },
  [State.FAILED]: { label: "Retry", run: (transfer) => transfer.wait() },
};

/**
 * Make the row of a transfer that keeps itself up to date. `removed` is called once it has left the list;
 * `processing` tells what is done with the file after that, or is null.
 */
export function transferRow(transfer, removed, processing) {
  const row = newRow(transfer.name, formatBytes(transfer.size));
  row.main.addEventListener("click", () => MAIN_ACTION[transfer.state].run(transfer));
  row.remove.addEventListener("click", () => {
    if (transfer.state === State.FINISHED) leave(row.element, removed);
    else if (transfer.state !== State.CANCELLING) transfer.cancel();
  });
  row.copy.addEventListener("click", () => copyAddress(row));

  transfer.addEventListener("progress", oncePerFrame(() => showProgress(row, transfer)));
  transfer.addEventListener("change", () => {
    if (transfer.state === State.CANCELLED) return leave(row.element, removed);
    showState(row, transfer);
    if (transfer.state === State.FINISHED) processing?.watch(transfer.url, (news) => showProcessing(row, news));
  });
  showState(row, transfer);
  return row.element;
}

/** Make the row of an upload of an earlier visit. `offset` is null when the gateway could not tell. */
export function unfinishedRow({ name, size, offset }, { chooseAgain, discard }) {
  const row = newRow(name, formatBytes(size));
  const known = offset !== null;
  row.element.dataset.state = "unfinished";
  row.progress.hidden = !known;
  row.progress.value = known ? fraction(offset, size) : 0;
  row.state.textContent = known
    ? `${percent(offset, size)} % uploaded`
    : "The server cannot tell at present how much is uploaded";
  label(row.main, "Choose file", `Choose ${name} again to continue`);
  label(row.remove, "Discard", `Discard ${name}`);
  row.main.addEventListener("click", chooseAgain);
  row.remove.addEventListener("click", async () => {
    try {
      await discard();
    } catch (error) {
      row.state.textContent = `Could not be discarded: ${error.message}.`;
    }
  });
  return row.element;
}

/** Take a row out of its list; focus goes to its neighbour so that the keyboard does not lose its place. */
export function leave(element, removed) {
  if (element.contains(document.activeElement)) {
    const neighbour = element.nextElementSibling ?? element.previousElementSibling;
    (neighbour?.querySelector(".actions button:not([hidden])") ?? document.getElementById("files")).focus();
  }
  element.remove();
  removed();
}

function newRow(name, size) {
  const element = template.content.firstElementChild.cloneNode(true);
  const find = (selector) => element.querySelector(selector);
  find(".name").textContent = name;
  find(".name").title = name;
  find(".size").textContent = size;
  find("progress").setAttribute("aria-label", `Progress of ${name}`);
  find(".address input").setAttribute("aria-label", `Address of ${name}`);
  find(".copy").setAttribute("aria-label", `Copy the address of ${name}`);
  find(".preview").alt = `Preview of ${name}`;
  return {
    element,
    name,
    progress: find("progress"),
    state: find(".state"),
    pace: find(".pace"),
    preview: find(".preview"),
    address: find(".address"),
    addressText: find(".address input"),
    copy: find(".copy"),
    main: find(".main"),
    remove: find(".remove"),
  };
}

function showState(row, transfer) {
  const finished = transfer.state === State.FINISHED;
  const action = MAIN_ACTION[transfer.state];
  row.element.dataset.state = transfer.state;
  if (action) label(row.main, action.label, `${action.label} ${row.name}`);
  else if (row.main === document.activeElement) row.remove.focus(); // what is hidden loses the focus
  row.main.hidden = !action;
  label(row.remove, finished ? "Clear" : "Cancel", `${finished ? "Clear" : "Cancel"} ${row.name}`);
  // Not `disabled`: that would lose the focus.
  row.remove.setAttribute("aria-disabled", transfer.state === State.CANCELLING);
  row.progress.hidden = finished;
  row.address.hidden = !finished;
  if (finished) row.addressText.value = transfer.url;
  showProgress(row, transfer);
}

const PROCESSED = {
  processing: "Uploaded. Processing…",
  ready: "Uploaded",
  failed: "Uploaded. It could not be processed",
  refused: "Refused: nobody can have this file",
};

function showProcessing(row, { state, picture }) {
  row.processed = PROCESSED[state]; // a last word about the upload may come later than this
  row.state.textContent = row.processed;
  if (state !== "ready" || !picture || row.preview.hasAttribute("src")) return;
  row.preview.addEventListener("load", () => (row.preview.hidden = false));
  row.preview.src = picture;
}

function showProgress(row, transfer) {
  row.progress.value = fraction(transfer.sent, transfer.size);
  row.state.textContent = row.processed ?? describe(transfer);
  row.pace.textContent = pace(transfer);
}

function describe(transfer) {
  const done = `${percent(transfer.sent, transfer.size)} %`;
  switch (transfer.state) {
    case State.WAITING:
      return "Waiting";
    case State.RUNNING:
      return transfer.sent === transfer.size ? "Finishing…" : done;
    case State.RETRYING:
      return `${done}. Interrupted, trying again…`;
    case State.PAUSED:
      return `${done}. Paused`;
    case State.FAILED:
      return transfer.problem;
    case State.FINISHED:
      return "Uploaded";
    default:
      return "Cancelling…";
  }
}

function pace(transfer) {
  const speed = transfer.bytesPerSecond;
  if (!speed || transfer.sent === transfer.size) return "";
  return `${formatBytes(speed)}/s, ${formatDuration(transfer.secondsLeft)} left`;
}

function fraction(part, total) {
  return total === 0 ? 1 : part / total;
}

/** Screen readers need the file's name too; "Pause" alone says nothing in a list. */
function label(button, text, spoken) {
  button.textContent = text;
  button.setAttribute("aria-label", spoken);
}

async function copyAddress(row) {
  // The clipboard interface exists only on https and localhost; in a plain http network it takes the old way.
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(row.addressText.value);
  } else {
    row.addressText.select();
    document.execCommand("copy");
  }
  row.copy.textContent = "Copied";
}

function oncePerFrame(show) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      show();
    });
  };
}
