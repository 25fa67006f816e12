"""A client that sends its parts to the store, past the gateway, and goes on whatever happens to the gateway."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.audit.journal import Accepted, Journal
from tests.fault.honest import LOST, PAUSE
from tests.wire.direct import UPLOADS, DirectClient
from tusgate.core.grid import MIB

if TYPE_CHECKING:
    from tests.fault.rig import Rig

DEADLINE = 60.0
PART = 5 * MIB
PASSING = (503,)
"""Answers after which a client asks again."""


async def told(client: DirectClient, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Ask until the gateway answers; return status and body."""
    while True:
        with suppress(*LOST, json.JSONDecodeError):
            status, answer = await client.ask(method, path, body)
            if status not in PASSING:
                return status, answer
        await asyncio.sleep(PAUSE)


async def change_past_the_gateway(rig: Rig, data: bytes, changed: bytes) -> str:
    """Upload the first part of `data`, and then let the upload be of `changed`; return its path once that is there."""
    async with asyncio.timeout(DEADLINE), aiohttp.ClientSession() as http:
        client = DirectClient(rig.client, http)
        named = {"fingerprint": f"client:{hashlib.sha256(changed).hexdigest()}", "urls": 1}
        status, begun = await told(client, "POST", "", {**named, **_declared(data)})
        assert status in (200, 201), begun
        upload_id = begun["upload"]["id"]
        for part in begun["parts"]["urls"]:
            await client.put(part, data[: part["size"]])
        change = {name: value for name, value in _declared(changed).items() if name != "part_size"}
        status, shown = await told(client, "PUT", f"/{upload_id}/plan", {**named, **change})
        assert status == 200, shown
        return await _brought(rig, client, upload_id, changed, shown["upload"])


async def send_past_the_gateway(rig: Rig, data: bytes, *, declares_parts: bool = False) -> str:
    """Upload `data` in parts, as the page of the gateway does; return its path once the object is what it should be.

    Where it `declares_parts`, by their SHA-256, those that the gateway knows are not sent.
    """
    async with asyncio.timeout(DEADLINE), aiohttp.ClientSession() as http:
        client = DirectClient(rig.client, http)
        wanted = {"size": len(data), "urls": 1, "fingerprint": f"sha256:{hashlib.sha256(data).hexdigest()}"}
        if declares_parts:
            wanted |= _declared(data)
        status, begun = await told(client, "POST", "", wanted)
        assert status in (200, 201), begun  # 200: it was made by a request whose answer was lost
        return await _brought(rig, client, begun["upload"]["id"], data, begun["upload"])


def _declared(data: bytes) -> dict[str, Any]:
    parts = [data[start : start + PART] for start in range(0, len(data), PART)]
    digests = [base64.b64encode(hashlib.sha256(part).digest()).decode() for part in parts]
    return {"size": len(data), "part_size": PART, "part_checksums": {"algorithm": "sha256", "values": digests}}


async def _brought(rig: Rig, client: DirectClient, upload_id: str, data: bytes, shown: dict[str, Any]) -> str:
    """Send what is missing of `data` until the file is there."""
    status = 409
    while status != 200 or shown["state"] != "complete":
        if status == 409:
            await _send_what_is_missing(client, upload_id, data)
            status, shown = await told(client, "POST", f"/{upload_id}/complete", {})
        else:
            assert status in (200, 202), shown
            await asyncio.sleep(PAUSE)
            status, shown = await told(client, "GET", f"/{upload_id}")
    rig.journals.append(Journal(upload_id, accepted=[Accepted(data, 0, len(data))]))
    path = f"{UPLOADS}/{upload_id}"
    assert await rig.stored(path) == data
    return path


async def _send_what_is_missing(client: DirectClient, upload_id: str, data: bytes) -> None:
    """Ask for URLs until there are no more; 409 means that the upload has all its parts already."""
    while True:
        status, page = await told(client, "POST", f"/{upload_id}/urls", {})
        if status == 409 or not page["urls"]:
            return
        assert status == 200, page
        for part in page["urls"]:
            with suppress(*LOST, aiohttp.ClientError):
                await client.put(part, data[part["start"] :][: part["size"]])
