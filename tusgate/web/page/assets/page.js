/** Wires the page: files come in by picker or drop, become transfers, and show up as rows. */

import { percent } from "./format.js";
import { DirectCarrier, fingerprintOf } from "./direct-carrier.js";
import { forgetDirect, rememberDirect, storedDirectUploads } from "./direct-storage.js";
import { Processing } from "./processing.js";
import { Queue } from "./queue.js";
import { leave, transferRow, unfinishedRow } from "./rows.js";
import { browserName, fingerprint, storedUploads } from "./storage.js";
import { State, Transfer } from "./transfer.js";
import { TusCarrier } from "./tus-carrier.js";

const endpoint = new URL(document.body.dataset.endpoint, document.baseURI).href;
const direct = document.body.dataset.direct && new URL(document.body.dataset.direct, document.baseURI).href;
const events = document.body.dataset.events && new URL(document.body.dataset.events, document.baseURI).href;
const processing = events ? new Processing(events) : null;
const queue = new Queue();
const open = new Map(); // fingerprint → transfer that is neither finished nor cancelled
const unfinished = new Map(); // fingerprint → upload of an earlier visit, and its row
const title = document.title;

const picker = document.getElementById("files");
const pickAgain = document.getElementById("again");
let expected = null; // fingerprint of the row whose file is being chosen again

picker.addEventListener("change", () => {
  addAll([...picker.files]);
  picker.value = ""; // the same file can be chosen once more
});
pickAgain.addEventListener("change", async () => {
  const [file] = pickAgain.files;
  if (file && (await fingerprint(file, endpoint)) === expected) addAll([file]);
  else if (file) notify(`“${file.name}” is another file, or it was changed: name, size and date must be the same.`);
  pickAgain.value = "";
});
document.getElementById("doors").hidden = !direct;
addDropTarget();
window.addEventListener("online", () => queue.retryNow());
showUnfinished();

async function addAll(files) {
  notify("");
  for (const file of files) await add(file);
}

async function add(file) {
  const key = await fingerprint(file, endpoint);
  if (open.has(key)) return;
  const isDirect = unfinished.get(key)?.upload.isDirect ?? choosesDirect(); // what was begun goes on at its door
  const transfer = new Transfer(file, isDirect ? directCarrier(key) : tusCarrier);
  open.set(key, transfer);
  transfer.addEventListener("change", () => changed(key, transfer));
  transfer.addEventListener("progress", showTitle);
  if (unfinished.has(key)) leave(unfinished.get(key).row, () => forgetRow(key));
  list("uploads").append(transferRow(transfer, () => showLists(), processing));
  showLists();
  queue.add(transfer);
}

/** Whether the door that is chosen at present leads straight to the store. */
function choosesDirect() {
  return direct && document.querySelector("input[name=door]:checked").value === "direct";
}

/** Make what moves the bytes of a file through the gateway. */
function tusCarrier(file, events) {
  return new TusCarrier(file, events, endpoint);
}

/** Return what makes that for the other door, and remembers the upload. */
function directCarrier(key) {
  return (file, events) => {
    const begun = (upload) => rememberDirect(key, file, upload);
    return new DirectCarrier(file, { ...events, begun }, direct, fingerprintOf(file, browserName()));
  };
}

function changed(key, transfer) {
  if (transfer.state === State.FINISHED || transfer.state === State.CANCELLED) {
    open.delete(key);
    forgetDirect(key);
  }
  const news = {
    [State.FINISHED]: "uploaded",
    [State.FAILED]: `failed. ${transfer.problem}`,
    [State.PAUSED]: "paused",
    [State.CANCELLED]: "cancelled",
    [State.RETRYING]: "interrupted, trying again",
  }[transfer.state];
  if (news) document.getElementById("announcement").textContent = `${transfer.name}: ${news}`;
  showTitle();
}

async function showUnfinished() {
  const directUploads = direct ? storedDirectUploads(endpoint) : []; // where the door is closed nothing can go on
  for (const upload of [...(await storedUploads(endpoint)), ...directUploads]) {
    const standing = await upload.standing();
    if (standing === "over") {
      await upload.forget();
      continue;
    }
    if (open.has(upload.fingerprint) || unfinished.has(upload.fingerprint)) continue;
    const row = unfinishedRow(
      { name: upload.name, size: upload.size, offset: standing },
      { chooseAgain: () => chooseAgain(upload.fingerprint), discard: () => discardRow(upload) },
    );
    unfinished.set(upload.fingerprint, { upload, row });
    list("unfinished").append(row);
    showLists();
  }
}

function chooseAgain(key) {
  expected = key;
  notify("");
  pickAgain.click();
}

async function discardRow(upload) {
  await upload.discard();
  leave(unfinished.get(upload.fingerprint).row, () => forgetRow(upload.fingerprint));
}

function forgetRow(key) {
  unfinished.delete(key);
  showLists();
}

function addDropTarget() {
  let depth = 0; // dragenter and dragleave also fire for every element under the pointer
  const within = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dragging", depth > 0);
  };
  window.addEventListener("dragenter", () => within(1));
  window.addEventListener("dragleave", () => within(-1));
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", async (event) => {
    event.preventDefault();
    within(-depth);
    const items = [...event.dataTransfer.items].filter(({ kind }) => kind === "file");
    const files = items.filter((item) => !item.webkitGetAsEntry()?.isDirectory);
    await addAll(files.map((item) => item.getAsFile()));
    if (files.length < items.length) notify("Folders cannot be uploaded: drop the files that are in them.");
  });
}

function showLists() {
  for (const id of ["unfinished", "uploads"]) {
    document.getElementById(id).hidden = list(id).childElementCount === 0;
  }
}

function showTitle() {
  const transfers = queue.open;
  const sum = (field) => transfers.reduce((total, transfer) => total + transfer[field], 0);
  document.title = transfers.length > 0 ? `${percent(sum("sent"), sum("size"))} % – ${title}` : title;
}

function list(id) {
  return document.querySelector(`#${id} .rows`);
}

function notify(text) {
  const notice = document.getElementById("notice");
  notice.textContent = text;
  notice.hidden = text === "";
}
