"""The browser module for direct uploads by itself, in Node: how often it tries, and how long it waits."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import tusgate.web.page

pytestmark = pytest.mark.clients

MODULE = Path(tusgate.web.page.__file__).parent / "assets" / "direct-carrier.js"
SERIES = 65
"""Pauses without progress, which take half an hour."""
SCRIPT = """
import { DirectCarrier } from "./direct-carrier.mjs";
const waits = [];
globalThis.setTimeout = (done, after) => (waits.push(after), setImmediate(done));
globalThis.clearTimeout = () => {};
const links = { self: "self", parts: "parts", urls: "urls", complete: "complete" };
const upload = { state: "uploading", links };
const pages = { "/uploads": { upload }, self: upload, urls: { urls: [], next_after: null } };
const ends = [];
globalThis.fetch = async (address) => {
  if (MODE === "offline") throw new TypeError("Failed to fetch");
  if (address.startsWith("parts")) return Response.json({ parts: [], next_after: null });
  return address === "complete" ? Response.json({ detail: "no" }, { status: 409 }) : Response.json(pages[address]);
};
const events = { sent() {}, interrupted() {}, finished() {}, failed: () => ends.push(waits.splice(0).length) };
const carrier = new DirectCarrier({ name: "a", type: "", size: 5 }, events, "/uploads", "client:a");
await carrier.start();
await carrier.start();
console.log(JSON.stringify(ends));
"""


@pytest.mark.parametrize("mode", ["offline", "refused"])
def test_whoever_says_try_again_gets_a_whole_series_of_tries_with_pauses(tmp_path: Path, mode: str) -> None:
    """Also where the store goes on lacking a part: no try follows the one before at once, over and over."""
    shutil.copy(MODULE, tmp_path / "direct-carrier.mjs")
    script = tmp_path / "script.mjs"
    script.write_text(SCRIPT.replace("MODE", json.dumps(mode)))
    ran = subprocess.run(["node", script], check=True, capture_output=True, text=True, timeout=60)
    assert json.loads(ran.stdout) == [SERIES, SERIES]
    assert ran.stderr == ""
