"""The S3 routes of Companion, as Uppy's aws-s3 plugins call them."""

from __future__ import annotations

import asyncio
import json
from io import BytesIO

import aiohttp
import pytest
from yarl import URL

from tests.contract.test_object_store import body_of
from tests.hook_server import hook_server
from tests.wire.direct import DirectClient
from tests.wire.identity import ALICE, BOB, guarded, upload_token
from tests.wire.rig import PART_SIZE, until
from tusgate.core.access import REQUIRED, Permission
from tusgate.core.hooks import Moment
from tusgate.core.lifecycle import advance
from tusgate.ports import Attributes
from tusgate.service.hooks import Asked, Hooks
from tusgate.sinks.http_hook import HttpHook, HttpHookConfig
from tusgate.sinks.posting import Receiver
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
    return answer.status, answer.reason, json.loads(answer.body or b"null")


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
    status, reason, refused = await ask(client, "POST", "/companion/s3/multipart", {"metadata": {"\0é\x1b": "x"}})
    assert (status, reason.isascii() and reason.isprintable(), "é" in refused["message"]) == (400, True, True)


async def wanted_form(
    client, base="/companion/s3", query="filename=a%20b.txt&type=text/plain&metadata[relativePath]=x/a"
):
    """Return where a small file is sent to, and with which fields."""
    status, _, wanted = await ask(client, "GET", f"{base}/params?{query}")
    assert (status, wanted["method"]) == (200, "POST"), wanted
    return URL(f"http://127.0.0.1:{client.gateway.port}{wanted['url'].removeprefix('http://gateway.test')}"), wanted[
        "fields"
    ]


def a_form(fields, content):
    form = aiohttp.FormData(fields)
    form.add_field("file", BytesIO(content), filename="b", content_type="text/plain")
    return form


@pytest.mark.parametrize("content", [b"small", b"", bytes(range(256)) * 40_000], ids=["small", "empty", "large"])
async def test_a_small_file_goes_through_the_gateway(rig, client, content):
    """Nothing is put past the gateway at once: a URL that does that cannot be verified before it is there."""
    url, fields = await wanted_form(client)
    async with client.http.post(url, data=a_form(fields, content)) as answer:
        assert answer.status == 201
        place = answer.headers["Location"]
    row = await rig.row(place)
    assert (row.filename, row.content_type, row.state, row.length) == (
        "a b.txt",
        "text/plain",
        "complete",
        len(content),
    )
    assert row.metadata == b"relativePath eC9h"
    assert await rig.stored(place) == content
    async with client.http.get(url / fields["key"], allow_redirects=False) as found:  # where version 6 looks for it
        assert (found.status, found.headers["Location"]) == (307, place)


async def test_a_form_brings_the_credentials_that_its_address_was_asked_with(tmp_path, store, http):
    """By the headers that version 5 is told to send, or in the path."""
    async with guarded(tmp_path, store=store) as here:
        alice = DirectClient(here.client, http, await here.who(ALICE))
        _, _, wanted = await ask(alice, "GET", "/companion/s3/params?filename=a")
        assert wanted["headers"] == alice.who
        url, fields = await wanted_form(alice)
        async with http.post(url, data=a_form(fields, b"small")) as answer:
            assert answer.status == 401
        async with http.post(url, data=a_form(fields, b"small"), headers=wanted["headers"]) as answer:
            assert answer.status == 201
        token = upload_token(jti="form")["Authorization"].removeprefix("Bearer ")
        url, fields = await wanted_form(DirectClient(here.client, http), f"/companion/u/{token}/s3")
        async with http.post(url, data=a_form(fields, b"small")) as answer:
            assert (answer.status, await here.rig.stored(answer.headers["Location"], ALICE)) == (201, b"small")


async def test_of_a_form_that_breaks_off_nothing_is_left(rig, client):
    url, _ = await wanted_form(client)
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    _, writer = await asyncio.open_connection("127.0.0.1", rig.client.port)
    fields = "Host: gateway.test\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000000"
    writer.write(f"POST {url.raw_path} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + head + bytes(100_000))
    await writer.drain()
    writer.close()
    async with asyncio.timeout(20):
        while (await rig.row(url.path)).state != "terminated":  # noqa: ASYNC110 # the client has gone
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("content", [DATA[:200_000], DATA], ids=["small", "large"])
async def test_a_form_that_is_sent_again_is_not_ended_with_the_one_that_broke_off(rig, client, content):
    """I9: Uppy tries again when its connection breaks, which we may notice later than that."""
    url, _ = await wanted_form(client)
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = head + content + b"\r\n--b--\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", rig.client.port)
    fields = f"Host: gateway.test\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}"
    writer.write(f"POST {url.raw_path} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body[:100_000])
    await writer.drain()
    await rig.until_taken_in(100_000 - len(head))
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Connection": "close"}
    async with client.http.post(url, data=BytesIO(body), headers=headers) as answer:
        status, place = answer.status, answer.headers.get("Location", "")
    writer.close()
    await writer.wait_closed()
    assert status == 201
    await rig.until_nobody_is_connected()
    assert (await rig.row(place)).state == "complete"
    assert await rig.stored(place) == content


async def test_a_form_that_breaks_off_ends_nothing_that_another_replica_has_finished(rig, client):
    """I9: as above, where the second form went to another process, and nothing of the first file has come."""
    url, _ = await wanted_form(client)
    _, writer = await asyncio.open_connection("127.0.0.1", rig.client.port)
    fields = "Host: gateway.test\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000000"
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    writer.write(f"POST {url.raw_path} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + head)
    await writer.drain()

    async def is_claimed():
        return (await rig.row(url.path)).epoch > 0

    await until(is_claimed)
    row, _ = await rig.database.claim(await rig.row(url.path), "another replica", [])
    stored = await rig.store.put_object(row.object_key, body_of(b"whole"), Attributes(row.id))
    await rig.database.commit(row, advance(row, 5, 5, stored=stored, ends=True))
    writer.close()
    await writer.wait_closed()
    await rig.until_nobody_is_connected()
    assert (await rig.row(url.path)).state == "complete"


async def test_a_form_without_an_end_makes_no_file(rig, client):
    url, _ = await wanted_form(client)
    body = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ncontent\r\n--b-+\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with client.http.post(url, data=body, headers=headers) as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, "invalid_request")
    assert (await rig.row(url.path)).state == "terminated"
    assert await rig.objects() == []


async def test_a_form_is_taken_once(rig, client):
    url, fields = await wanted_form(client)
    async with client.http.post(url, data=a_form(fields, b"first")) as answer:
        place = answer.headers["Location"]
    for content in (b"other", b""):
        async with client.http.post(url, data=a_form(fields, content)) as answer:
            assert (answer.status, (await answer.json())["code"]) == (400, "already_complete")
    async with client.http.post(url, data=b"no form", headers={"Content-Type": "multipart/form-data"}) as answer:
        assert answer.status == 400
    assert await rig.stored(place) == b"first"


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
async def test_nothing_but_a_form_is_taken_as_one(client, content_type):
    url, _ = await wanted_form(client)
    async with client.http.post(url, data=b"x", headers={"Content-Type": content_type}) as answer:
        assert answer.status == 415


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_picture_in_a_page_of_others_makes_no_upload(rig, client, site):
    """What a script asks for has an Origin, of which the rules are asked."""
    client.who = {"Sec-Fetch-Site": site}
    status, _, _ = await ask(client, "GET", "/companion/s3/params?filename=a")
    assert status == 403
    assert not any((await rig.database.count_by_state()).values())


async def test_metadata_that_cannot_be_kept_is_refused(client):
    status, _, refused = await ask(client, "GET", "/companion/s3/params?filename=a&metadata[a%20b]=x")
    assert (status, refused["message"].startswith("metadata: expected")) == (400, True)


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


async def test_a_token_in_the_path_is_not_told_to_hooks(tmp_path, store, http):
    """I19: they see no credentials, wherever those stand."""
    async with hook_server() as server:
        receiver = Receiver(url=server.receiver.url, secrets=(), allowed=server.receiver.allowed)
        hook = HttpHook(HttpHookConfig(name="app", receiver=receiver))
        hooks = Hooks([Asked(hook=hook, moments=frozenset({Moment.CREATE}))])
        async with guarded(tmp_path, store=store, hooks=hooks) as here:
            token = upload_token(jti="uppy")["Authorization"].removeprefix("Bearer ")
            path = f"/companion/u/{token}/s3/multipart"
            assert (await ask(DirectClient(here.client, http), "POST", path, {"filename": "a"}))[0] == 200
        await hooks.close()
        assert server.event("pre-create")["HTTPRequest"]["URI"] == "/api/v1/companion/u/***/s3/multipart"


@pytest.mark.parametrize("permission", [*Permission, None])
async def test_a_permission_allows_exactly_what_it_is_for(tmp_path, store, http, permission):
    """AT-03: a GET that makes URLs is no reading."""
    held = frozenset({permission} if permission is not None else ())
    async with guarded(tmp_path, store=store) as here:
        alice = DirectClient(here.client, http, await here.who(ALICE))
        client = DirectClient(here.client, http, await here.who(ALICE, held))
        for operation in Companion(WebConfig(), here.rig.direct, here.rig.uploads).operations():
            if "{token}" in operation.path:
                continue
            _, _, begun = await ask(alice, "POST", "/companion/s3/multipart", {"filename": "a"})
            path = operation.path.replace("{id}", begun["uploadId"]).replace("{number}", "1").replace("{key}", "a")
            body = {"filename": "a", "parts": [{"PartNumber": 1, "ETag": "x"}]} if operation.body else None
            status, _, _ = await ask(client, operation.method, f"{path}?partNumbers=1", body)
            assert operation.route is not None
            needed = REQUIRED[operation.route, operation.asked_as or operation.method]
            assert (status == 403) == (not needed & held), (operation.name, status)
