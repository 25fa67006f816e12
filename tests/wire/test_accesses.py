"""The access log over the wire: who read what, how much of it, and who is told."""

from __future__ import annotations

import asyncio
import base64
import ipaddress

import pytest

from tests.wire.identity import ALICE, BOB, EVE, guarded
from tests.wire.rig import MIB, running, until
from tests.wire.test_downloads import on_s3, replace_object
from tests.wire.test_files_api import ask, uploaded
from tests.wire.test_shares import CONFIG, KEY, session_of, share
from tusgate.core.access import Permission
from tusgate.core.errors import DatabaseUnavailable
from tusgate.web.config import WebConfig

DATA = bytes(range(256)) * 64
ADMIN = frozenset({Permission.ADMIN})


@pytest.fixture
async def rig(tmp_path):
    async with running(tmp_path, CONFIG) as started:
        yield started


@pytest.fixture
def client(rig):
    return rig.client


@pytest.fixture
async def file(client):
    return await uploaded(client, DATA)


async def accesses(client, file, **who):
    status, page = await ask(client, "GET", f"{file}/accesses", **who)
    assert status == 200, page
    return page["accesses"]


async def ended(client, file, count=1):
    """Return the accesses to a file once `count` of them have all ended."""
    found: list[dict[str, object]] = []

    async def all_over():
        found[:] = await accesses(client, file)
        return len(found) == count and all(each["ended_at"] for each in found)

    await until(all_over)
    return found


async def test_a_download_is_written_down_with_all_that_is_known_of_it(client, file):
    await client.request("GET", f"{file}/content", {"Range": "bytes=10-19"})
    (row,) = await ended(client, file)
    assert (row["how"], row["reader"], row["proof"], row["client"]) == ("content", "", "open", "127.0.0.1")
    assert (row["first_byte"], row["wanted"], row["sent"], row["outcome"]) == (10, 10, 10, "done")
    assert row["file_id"] == file.rpartition("/")[2]


async def test_a_row_is_there_before_the_first_byte_leaves(rig, client, file):
    """What the reader has, somebody can be told of, also if the process dies now."""
    written = []
    begin = rig.database.begin_accesses

    async def watched(new):
        assert connection_is_silent()
        written.extend(new)
        await begin(new)

    rig.database.begin_accesses = watched
    async with client.connect() as connection:

        def connection_is_silent():
            return not connection._down._buffer

        connection.send_head("GET", f"{file}/content", {})
        assert (await connection.answer()).status == 200
    assert len(written) == 1


async def test_what_gives_no_bytes_is_no_access(client, file):
    whole = await client.request("HEAD", f"{file}/content")
    for fields in ({"If-None-Match": whole.headers["ETag"]}, {"Range": "bytes=99999999-"}, {"If-Match": '"x"'}):
        await client.request("GET", f"{file}/content", fields)
    await client.request("HEAD", file)
    await client.request("GET", "/api/v1/files")
    assert await accesses(client, file) == []


async def test_what_is_told_of_a_file_without_its_bytes_is_no_access(client, file):
    """Its name, size and digests are told by listings and lookups too."""
    _, shown = await ask(client, "GET", file)
    assert shown["state"] == "complete"
    crc64 = base64.b64decode(shown["crc64nvme"]).hex()
    found = await client.request("GET", f"/api/v1/fingerprints/crc64nvme/{crc64}")
    assert (found.status, file.rpartition("/")[2].encode() in found.body) == (200, True)
    await client.request("GET", "/api/v1/files?name_contains=a")
    await client.request("HEAD", file.replace("/api/v1", ""))
    assert await accesses(client, file) == []


async def test_an_empty_file_is_read_too(client):
    file = await uploaded(client, b"")
    await client.request("GET", f"{file}/content")
    (row,) = await ended(client, file)
    assert (row["wanted"], row["sent"], row["outcome"]) == (0, 0, "done")


async def test_a_download_by_a_link_names_the_link_and_every_part_of_it(client, file):
    path, made = await share(client, file, max_downloads=1)
    first = await client.request("GET", path, {"Range": "bytes=0-9"})
    await client.request("GET", path, {"Range": "bytes=10-19", **session_of(first)})
    await client.request("GET", path)
    rows = await ended(client, file, 2)
    assert {(row["how"], row["reader"], row["proof"]) for row in rows} == {("share", "", f"share:{made['id']}")}
    assert sorted(row["first_byte"] for row in rows) == [0, 10]


async def test_a_redirect_is_written_down_as_one(tmp_path):
    async with on_s3(tmp_path, WebConfig(downloads="redirect", share_keys=(KEY,))) as (rig, _):
        file = await uploaded(rig.client)
        await rig.client.request("HEAD", f"{file}/content")
        await rig.client.request("GET", f"{file}/content")
        path, made = await share(rig.client, file)
        await rig.client.request("GET", path)
        rows = await ended(rig.client, file, 2)
        assert {(row["how"], row["proof"]) for row in rows} == {
            ("redirect", f"share:{made['id']}"),
            ("redirect", "open"),
        }


async def test_a_reader_who_leaves_has_not_all_of_it(rig, client):
    file = await uploaded(client, bytes(8 * MIB))
    async with client.connect() as connection:
        connection.send_head("GET", f"{file}/content", {})
        await connection.some(1000)
    (row,) = await ended(client, file)
    assert (row["outcome"], row["wanted"]) == ("broken", 8 * MIB)
    assert row["sent"] < 8 * MIB


async def test_what_the_store_cannot_give_is_no_access(rig, client, file):
    await replace_object(rig, file, b"other")
    assert (await client.request("GET", f"{file}/content")).status == 502
    assert await accesses(client, file) == []


async def test_no_byte_leaves_that_cannot_be_written_down(rig, client, file):
    async def away(*_):
        raise DatabaseUnavailable("away")

    rig.database.begin_accesses = rig.database.begin_counted_access = away
    answer = await client.request("GET", f"{file}/content")
    assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    path, made = await share(client, file, max_downloads=1)
    assert (await client.request("GET", path)).status == 503
    _, listed = await ask(client, "GET", f"{file}/shares")
    assert [each["downloads"] for each in listed["shares"] if each["id"] == made["id"]] == [0]


async def test_a_reader_does_not_wait_for_the_end_to_be_written_down(rig, client, file):
    """The database goes away while bytes flow: the reader has them, and the end is written down when it is back."""
    is_back, end, tried = asyncio.Event(), rig.database.end_accesses, []

    async def silent(ended):
        tried.extend(ended)
        await is_back.wait()
        await end(ended)

    rig.database.end_accesses = silent
    async with client.connect() as connection:
        for _ in range(2):
            connection.send_head("GET", f"{file}/content", {})
            assert (await connection.answer()).body == DATA
    assert {row["outcome"] for row in await accesses(client, file)} == {"started"}
    is_back.set()
    rows = await ended(client, file, 2)
    assert {row["outcome"] for row in rows} == {"done"}
    assert len(tried) == 2


async def test_the_log_is_read_page_by_page_and_outlives_the_file(client, file):
    for _ in range(5):
        await client.request("GET", f"{file}/content")
    assert (await ask(client, "DELETE", file))[0] == 204
    seen, query = [], "?limit=2"
    while query:
        status, page = await ask(client, "GET", f"{file}/accesses{query}")
        assert status == 200
        seen += [each["id"] for each in page["accesses"]]
        query = page["next_cursor"] and f"?limit=2&cursor={page['next_cursor']}"
    assert len(seen) == len({*seen}) == 5


@pytest.mark.parametrize("query", ["limit=0", "cursor=x", "reader=x", "limit=1&limit=2"])
async def test_a_parameter_that_means_nothing_is_refused(client, file, query):
    assert (await ask(client, "GET", f"{file}/accesses?{query}"))[0] == 400


async def test_no_log_is_kept_where_none_is_wanted(tmp_path):
    async with running(tmp_path, CONFIG, keeps_log=False) as rig:
        file = await uploaded(rig.client, DATA)
        assert (await rig.client.request("GET", f"{file}/content")).body == DATA
        path, _ = await share(rig.client, file, max_downloads=1)
        assert [(await rig.client.request("GET", path)).status for _ in range(2)] == [200, 404]
        assert await accesses(rig.client, file) == []


async def test_owners_see_their_files_and_administrators_the_whole_tenant(tmp_path):
    async with guarded(tmp_path) as here:
        alice, bob, eve = [await here.who(scope) for scope in (ALICE, BOB, EVE)]
        files = {}
        for who in (alice, bob, eve):
            upload = await here.create(who, 3)
            await here.client.patch(upload, 0, b"abc", who)
            files[str(who)] = file = "/api/v1/files/" + upload.rpartition("/")[2]
            assert (await here.client.request("GET", f"{file}/content", who)).status == 200
        (row,) = await accesses(here.client, files[str(alice)], **alice)
        assert (row["reader"], row["owner"]) == ("alice", "alice")
        assert row["proof"].startswith("token:")
        for stranger in (bob, eve):
            assert (await ask(here.client, "GET", f"{files[str(alice)]}/accesses", **stranger))[0] == 404
        assert (await ask(here.client, "GET", "/api/v1/accesses", **alice))[0] == 403
        admin = await here.who(ALICE, ADMIN)
        _, page = await ask(here.client, "GET", "/api/v1/accesses", **admin)
        assert sorted(each["owner"] for each in page["accesses"]) == ["alice", "bob"]  # both at one moment
        bobs = files[str(bob)].rpartition("/")[2]
        _, page = await ask(here.client, "GET", f"/api/v1/accesses?file_id={bobs}&reader=bob", **admin)
        assert [each["file_id"] for each in page["accesses"]] == [bobs]
        _, page = await ask(here.client, "GET", "/api/v1/accesses?began_before=2000-01-01T00:00:00Z", **admin)
        assert page["accesses"] == []
        _, page = await ask(here.client, "GET", "/api/v1/accesses", **await here.who(EVE, ADMIN))
        assert [each["owner"] for each in page["accesses"]] == ["alice"], "of another tenant"


@pytest.mark.parametrize(
    ("trusted", "fields", "client_address"),
    [
        ("127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, "203.0.113.9"),
        ("127.0.0.1", {"X-Forwarded-For": "6.6.6.6, 203.0.113.9"}, "203.0.113.9"),
        ("127.0.0.0/8", {"X-Forwarded-For": "203.0.113.9, 127.0.0.2"}, "203.0.113.9"),
        ("127.0.0.1", {"Forwarded": 'for="[2001:db8::7]:4711";proto=http'}, "2001:db8::7"),
        ("127.0.0.1", {"X-Forwarded-For": "203.0.113.9:4711"}, "203.0.113.9"),
        ("127.0.0.1", {"X-Forwarded-For": "<script>"}, "127.0.0.1"),
        ("127.0.0.1", {}, "127.0.0.1"),
        ("10.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, "127.0.0.1"),
    ],
)
async def test_the_address_is_what_the_last_proxy_that_is_trusted_has_seen(tmp_path, trusted, fields, client_address):
    """AT-11: what stands in front of that, anybody may have written."""
    config = WebConfig(trusted_proxies=(ipaddress.ip_network(trusted),))
    async with running(tmp_path, config) as rig:
        file = await uploaded(rig.client)
        await rig.client.request("GET", f"{file}/content", fields)
        (row,) = await ended(rig.client, file)
        assert row["client"] == client_address
