"""Workers in any language: jobs by the API, held by a claim that nobody else has."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.wire.identity import ALICE, BOB, EVE, guarded
from tests.wire.rig import MIB, until
from tests.wire.test_files_api import FILES
from tusgate.core.access import USER, Permission
from tusgate.core.model import Keeping, Scope
from tusgate.core.processing import LEASE, MOST_TRIES, Chosen, Declared, Processing

JOBS = "/api/v1/jobs"
TEXT = "filetype " + base64.b64encode(b"text/plain").decode()
WORDS = Processing((Declared("words", 1, ("text/*",)),), Chosen(("words",), frozenset({"words"})))
PROCESS = frozenset({Permission.PROCESS})


@asynccontextmanager
async def serving(home):
    async with guarded(home, keeping=Keeping(processing=WORDS), external=["words"]) as here:
        yield here


async def ask(here, who, path, method="POST", body=None, **fields):
    """Return the status and what the body says, in JSON where it is that."""
    raw = b"" if body is None else json.dumps(body).encode()
    answer = await here.ask(method, path, {"Content-Type": "application/json", **who, **fields}, raw)
    is_json = "json" in answer.headers.get("Content-Type", "")
    return answer.status, json.loads(answer.body) if is_json and answer.body else answer.body


async def a_text(here, data=b"one two", scope=ALICE):
    """Upload a text and return its path in the API, and the credentials of its owner."""
    who = await here.who(scope)
    path = await here.create(who, len(data), Upload_Metadata=TEXT)
    assert (await here.client.patch(path, 0, data, who)).status == 204
    return f"{FILES}/{path.rpartition('/')[2]}", who


async def a_worker(here, scope=BOB):
    return await here.who(scope, PROCESS)


async def claim(here, worker, wait=0.0):
    return await ask(here, worker, f"{JOBS}/claim", body={"processors": ["words"], "wait": wait})


async def shown(here, who, file):
    status, found = await ask(here, who, file, "GET")
    assert status == 200
    return found


async def put(here, worker, job, data, name="words", **fields):
    async with here.client.connect() as connection:
        head = {**worker, "Content-Type": "text/plain", "Content-Length": str(len(data)), **fields}
        connection.send_head("PUT", f"{JOBS}/{job}/derived/{name}?filename=words.txt", head)
        connection.up.write(data)
        return (await connection.answer()).status


@pytest.mark.parametrize("size", [7, 20 * MIB])
async def test_a_worker_does_a_job_of_another_owner_of_its_tenant(tmp_path, size):
    data = (b"one two " * (size // 8 + 1))[:size]
    async with serving(tmp_path) as here:
        file, alice = await a_text(here, data)
        worker = await a_worker(here)
        status, job = await claim(here, worker)
        assert (status, job["processor"], job["tries"], job["lease"]) == (200, "words", 1, LEASE)
        assert (job["file"]["owner"], job["file"]["size"], job["file"]["content_type"]) == ("alice", size, "text/plain")
        assert (await here.ask("GET", f"{file}/content", alice)).status == 409
        source = "/" + job["source"].split("/", 3)[3]
        assert (await here.ask("GET", source, worker)).body == data
        assert (await ask(here, worker, f"{JOBS}/{job['id']}/heartbeat", body={"progress": 0.5}))[0] == 204
        assert (await shown(here, alice, file))["processing"]["jobs"][0]["progress"] == 0.5
        made = data.replace(b" ", b"\n")
        assert await put(here, worker, job["id"], made) == 204
        assert (await shown(here, alice, file))["processing"]["derived"] == []
        assert (await ask(here, worker, f"{JOBS}/{job['id']}/done", body={"facts": {"words": 2}}))[0] == 204
        processing = (await shown(here, alice, file))["processing"]
        assert (processing["state"], processing["withheld"], processing["jobs"][0]["facts"]) == (
            "ready",
            False,
            {"words": 2},
        )
        (derived,) = processing["derived"]
        assert (derived["derivation"], derived["filename"]) == ("words/words", "words.txt")
        assert (await here.ask("GET", f"{FILES}/{derived['id']}/content", alice)).body == made
        for verb in ("heartbeat", "done"):
            status, problem = await ask(here, worker, f"{JOBS}/{job['id']}/{verb}", body={})
            assert (status, problem["code"]) == (409, "job_lost")
        assert await put(here, worker, job["id"], b"late") == 409


async def test_a_worker_that_waits_gets_a_job_when_there_is_one(tmp_path):
    async with serving(tmp_path) as here:
        worker = await a_worker(here)
        assert (await claim(here, worker))[0] == 204
        waiting = asyncio.create_task(claim(here, worker, 20))
        file, _ = await a_text(here)
        status, job = await waiting
        assert (status, job["file"]["id"]) == (200, file.rpartition("/")[2])


async def test_a_worker_that_waits_and_leaves_takes_no_job_along(tmp_path):
    async with serving(tmp_path) as here:
        worker = await a_worker(here)
        async with here.client.connect() as connection:
            body = json.dumps({"processors": ["words"], "wait": 20}).encode()
            fields = {**worker, "Content-Type": "application/json", "Content-Length": str(len(body))}
            connection.send_head("POST", f"{JOBS}/claim", fields)
            connection.up.write(body)
            await connection.up.drain()
        await here.rig.until_nobody_is_connected()
        await a_text(here)

        async def is_free():
            return (await claim(here, worker))[0] == 200

        await until(is_free)


async def test_what_a_worker_says_of_a_file_is_shown(tmp_path):
    async with serving(tmp_path) as here:
        worker = await a_worker(here)
        file, alice = await a_text(here)
        _, job = await claim(here, worker)
        assert (await ask(here, worker, f"{JOBS}/{job['id']}/failed", body={"error": "no luck"}))[0] == 204
        assert (await claim(here, worker))[0] == 204
        here.rig.clock.now += 3600
        _, job = await claim(here, worker)
        assert job["tries"] == 2
        assert (await ask(here, worker, f"{JOBS}/{job['id']}/refused", body={"reason": "bad words"}))[0] == 204
        found = await shown(here, alice, file)
        assert (found["processing"]["state"], found["processing"]["jobs"][0]["error"]) == ("refused", "bad words")
        assert (await here.ask("GET", f"{file}/content", alice)).status == 403
        other, alice = await a_text(here)
        _, job = await claim(here, worker)
        body = {"error": "no words", "permanent": True}
        assert (await ask(here, worker, f"{JOBS}/{job['id']}/failed", body=body))[0] == 204
        assert (await shown(here, alice, other))["processing"]["state"] == "failed"


async def test_jobs_of_other_tenants_are_out_of_reach(tmp_path):
    """AT-02, AT-03."""
    async with serving(tmp_path) as here:
        await a_text(here)
        eve, worker = await a_worker(here, EVE), await a_worker(here)
        assert (await claim(here, eve))[0] == 204
        _, job = await claim(here, worker)
        for verb, body in (("done", {}), ("heartbeat", {}), ("failed", {"error": "x"}), ("refused", {"reason": "x"})):
            assert (await ask(here, eve, f"{JOBS}/{job['id']}/{verb}", body=body))[0] == 409
        assert (await ask(here, eve, f"{JOBS}/{job['id']}/source", "GET"))[0] == 409
        assert await put(here, eve, job["id"], b"x") == 409
        assert (await ask(here, worker, f"{JOBS}/{job['id']}/done", body={}))[0] == 204


async def test_the_permission_for_jobs_is_needed_and_opens_nothing_else(tmp_path):
    """AT-03."""
    async with serving(tmp_path) as here:
        file, _ = await a_text(here)
        usual, worker = await here.who(ALICE, USER), await here.who(ALICE, PROCESS)
        assert (await claim(here, usual))[0] == 403
        assert (await claim(here, {}))[0] == 401
        for method, path in (("GET", file), ("GET", FILES), ("DELETE", file), ("GET", f"{file}/content")):
            assert (await here.ask(method, path, worker)).status == 403
        for verb in ("done", "heartbeat", "failed", "refused"):
            assert (await ask(here, usual, f"{JOBS}/{'A' * 24}/{verb}", body={}))[0] == 403
        assert await put(here, usual, "A" * 24, b"x") == 403
        assert (await ask(here, usual, f"{JOBS}/{'A' * 24}/source", "GET"))[0] == 403


async def test_what_cannot_be_meant_is_refused(tmp_path):
    async with serving(tmp_path) as here:
        worker = await a_worker(here)
        await a_text(here)
        wrong: tuple[dict[str, Any], ...] = (
            {"processors": ["other"]},
            {"processors": []},
            {},
            {"processors": ["words"], "wait": 21},
        )
        for wanted in wrong:
            status, problem = await ask(here, worker, f"{JOBS}/claim", body=wanted)
            assert (status, problem["code"]) == (400, "invalid_request")
        _, job = await claim(here, worker)
        assert await put(here, worker, job["id"], b"x", name="a%20b") == 400
        assert await put(here, worker, job["id"], b"x", **{"Content-Type": "no type"}) == 400
        for body in ({"error": ""}, {"error": "\0"}, {}):
            assert (await ask(here, worker, f"{JOBS}/{job['id']}/failed", body=body))[0] == 400
        assert (await ask(here, worker, f"{JOBS}/{job['id']}/heartbeat", body={"progress": 2}))[0] == 400
        for facts in (math.nan, math.inf):
            for verb, more in (("done", {}), ("refused", {"reason": "bad words"})):
                said: dict[str, Any] = {"facts": {"ratio": [facts]}, **more}
                status, problem = await ask(here, worker, f"{JOBS}/{job['id']}/{verb}", body=said)
                assert (status, problem["code"]) == (400, "invalid_request")
        assert (await ask(here, worker, f"{JOBS}/%00/done", body={}))[0] in (400, 409)
        assert (await ask(here, worker, f"{JOBS}/{job['id']}/done", body={}))[0] == 204


async def test_a_worker_that_is_not_heard_of_is_followed_by_another_and_by_none_in_the_end(tmp_path):
    async with serving(tmp_path) as here:
        worker = await a_worker(here)
        file, alice = await a_text(here)
        for tries in range(1, MOST_TRIES + 1):
            status, job = await claim(here, worker)
            assert (status, job["tries"]) == (200, tries)
            assert await put(here, worker, job["id"], b"left") == 204
            here.rig.clock.now += LEASE + 1
        assert (await claim(here, worker))[0] == 204
        processing = (await shown(here, alice, file))["processing"]
        assert (processing["state"], processing["jobs"][0]["state"], processing["derived"]) == ("failed", "dead", [])
        assert (await here.rig.database.usage(Scope("acme").tenant)).files == 1


async def test_a_gateway_that_ends_lets_nobody_wait(tmp_path):
    async with serving(tmp_path) as here:
        waiting = asyncio.create_task(claim(here, await a_worker(here), 20))
        here.rig.writers.draining = True
        assert (await waiting)[0] == 204
        here.rig.writers.draining = False


async def test_the_document_says_that_a_derived_file_is_a_body_with_a_name(tmp_path):
    async with serving(tmp_path) as here:
        answer = await here.client.request("GET", "/api/v1/openapi.json")
    put = json.loads(answer.body)["paths"][f"{JOBS}/{{job}}/derived/{{name}}"]["put"]
    assert {each["name"]: each["required"] for each in put["parameters"]} == {
        "job": True,
        "name": True,
        "filename": True,
    }
    assert put["requestBody"] == {"required": True, "content": {"*/*": {}}}
