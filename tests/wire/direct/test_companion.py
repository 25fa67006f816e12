"""The S3 routes of Companion, as Uppy's aws-s3 plugins call them."""

from __future__ import annotations

import json

import pytest
from yarl import URL

from tests.wire.direct import DirectClient
from tests.wire.identity import ALICE, BOB, guarded, upload_token
from tests.wire.rig import PART_SIZE
from tusgate.core.access import REQUIRED, Permission
from tusgate.web.api.companion import Companion
from tusgate.web.config import WebConfig

BASE = "/../companion/s3"
DATA = bytes(range(256)) * (PART_SIZE // 256) + b"the end"


async def ask(client, method, path, body=None):
    """Ask and return the answer as it is: errors of Companion are no problem details."""
    fields = {"Content-Type": "application/json", **client.who}
    raw = None if body is None else json.dumps(body).encode()
    async with client.gateway.connect() as connection:
        connection.send_head(method, f"/api/v1{path}", {**fields, "Content-Length": str(len(raw or b""))})
        connection.up.write(raw or b"")
        answer = await connection.answer()
    return answer.status, answer.reason, json.loads(answer.body)


async def test_the_routes_answer_as_companion_does(rig, client):
    status, _, begun = await ask(
        client,
        "POST",
        "/companion/s3/multipart",
        {"filename": "a b.png", "type": "image/png", "metadata": {"name": "a b.png", "n": 1, "no": None}},
    )
    assert (status, {*begun}) == (200, {"key", "uploadId", "bucket"})
    one = f"/companion/s3/multipart/{begun['uploadId']}"
    parts = []
    for number, chunk in ((1, DATA[:PART_SIZE]), (2, DATA[PART_SIZE:])):
        status, _, signed = await ask(client, "GET", f"{one}/{number}?key={begun['key']}")
        assert (status, signed["expires"]) == (200, 900)
        status, etag = await client.put({**signed, "headers": {}}, chunk)
        parts.append({"PartNumber": number, "ETag": etag})
    _, _, listed = await ask(client, "GET", f"{one}?key={begun['key']}")
    assert listed == [{**part, "Size": size} for part, size in zip(parts, (PART_SIZE, 7), strict=True)]
    _, _, batch = await ask(client, "GET", f"{one}/batch?partNumbers=1,2,3")
    assert {*batch["presignedUrls"]} == {"1", "2", "3"}
    status, _, done = await ask(client, "POST", f"{one}/complete?key=x", {"parts": parts})
    assert (status, done["key"]) == (200, begun["key"])
    assert done["location"].endswith(f"/api/v1/files/{begun['uploadId']}/content")
    _, _, after = await ask(client, "GET", f"{one}?key={begun['key']}")
    assert after == listed  # Uppy resumes an upload whose end it has missed: all is there, and it completes again
    assert await ask(client, "POST", f"{one}/complete?key=x", {"parts": parts}) == (status, "OK", done)
    row = await rig.row(f"/{begun['uploadId']}")
    assert (row.state, row.filename, row.content_type) == ("complete", "a b.png", "image/png")
    assert await rig.stored(f"/{begun['uploadId']}") == DATA


async def test_an_abort_ends_what_is_unfinished_and_never_a_file(rig, client):
    """I4: Uppy 5 aborts when the answer to its Complete is lost. S3 would know no such multipart upload by then."""
    _, _, begun = await ask(client, "POST", "/companion/s3/multipart", {"filename": "a"})
    one = f"/companion/s3/multipart/{begun['uploadId']}"
    _, _, signed = await ask(client, "GET", f"{one}/1")
    _, etag = await client.put({**signed, "headers": {}}, DATA)
    assert (await ask(client, "POST", f"{one}/complete", {"parts": [{"PartNumber": 1, "ETag": etag}]}))[0] == 200
    assert (await ask(client, "DELETE", one))[::2] == (200, {})
    assert await rig.stored(f"/{begun['uploadId']}") == DATA
    assert (await rig.row(f"/{begun['uploadId']}")).state == "complete"


async def test_what_is_refused_says_why_wherever_uppy_looks(client):
    _, _, begun = await ask(client, "POST", "/companion/s3/multipart", {"filename": "a"})
    one = f"/companion/s3/multipart/{begun['uploadId']}"
    status, reason, refused = await ask(client, "POST", f"{one}/complete", {"parts": [{"PartNumber": 1, "ETag": "x"}]})
    assert status == 409
    assert reason == refused["message"] == refused["error"]
    assert "part 1 missing" in reason
    for path, expected in ((f"{one}/0", 400), (f"{one}/10001", 400), (f"{one}/x", 400), (f"{one}/batch", 400)):
        assert (await ask(client, "GET", path))[0] == expected
    assert (await ask(client, "DELETE", one))[::2] == (200, {})
    assert (await ask(client, "GET", f"{one}/1"))[0] == 410
    assert (await ask(client, "POST", "/companion/s3/multipart", {"metadata": {"a b": "x"}}))[0] == 400
    assert (await ask(client, "POST", f"{one}/complete", {"parts": "x"}))[0] == 400


async def test_a_small_file_goes_through_the_gateway(rig, client):
    """Nothing is put past the gateway at once: a URL that does that cannot be verified before it is there."""
    status, _, wanted = await ask(client, "GET", "/companion/s3/params?filename=a%20b.txt&type=text/plain")
    assert (status, wanted["method"], wanted["fields"]) == (200, "PUT", {})
    path = wanted["url"].removeprefix("http://gateway.test")
    url = URL(f"http://127.0.0.1:{rig.client.port}{path}", encoded=True)
    async with client.http.put(url, data=b"small", headers=wanted["headers"]) as answer:
        assert answer.status == 201
        row = await rig.row(answer.headers["Location"])
    assert (row.filename, row.content_type, row.state) == ("a b.txt", "text/plain", "complete")


async def test_a_token_in_the_path_counts_like_one_in_a_field(tmp_path, store, http):
    async with guarded(tmp_path, store=store) as here:
        client = DirectClient(here.client, http)
        token = upload_token(jti="uppy")["Authorization"].removeprefix("Bearer ")
        status, _, begun = await ask(client, "POST", f"/companion/u/{token}/s3/multipart", {"filename": "a"})
        assert status == 200
        assert (await here.rig.row(f"/{begun['uploadId']}", ALICE)).filename == "a"
        for path in ("/companion/s3/multipart", "/companion/u/nonsense/s3/multipart"):
            status, _, refused = await ask(client, "POST", path, {"filename": "a"})
            assert (status, refused["error"] == refused["message"]) == (401, True)
        one = f"/multipart/{begun['uploadId']}/1"
        assert (await ask(client, "GET", f"/companion/u/{token}/s3{one}"))[0] == 200
        client.who = await here.who(BOB)
        assert (await ask(client, "GET", f"/companion/s3{one}"))[0] == 404


@pytest.mark.parametrize("permission", [*Permission, None])
async def test_a_permission_allows_exactly_what_it_is_for(tmp_path, store, http, permission):
    """AT-03: a GET that makes URLs is no reading."""
    held = frozenset({permission} if permission is not None else ())
    async with guarded(tmp_path, store=store) as here:
        alice = DirectClient(here.client, http, await here.who(ALICE))
        client = DirectClient(here.client, http, await here.who(ALICE, held))
        for operation in Companion(WebConfig(), here.rig.direct).operations():
            if "{token}" in operation.path:
                continue
            _, _, begun = await ask(alice, "POST", "/companion/s3/multipart", {"filename": "a"})
            path = operation.path.replace("{id}", begun["uploadId"]).replace("{number}", "1")
            body = {"filename": "a", "parts": [{"PartNumber": 1, "ETag": "x"}]} if operation.body else None
            status, _, _ = await ask(client, operation.method, f"{path}?partNumbers=1", body)
            assert operation.route is not None
            needed = REQUIRED[operation.route, operation.asked_as or operation.method]
            assert (status == 403) == (not needed & held), (operation.name, status)
