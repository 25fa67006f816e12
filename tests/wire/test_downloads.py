"""Downloads over the wire: bytes, ranges, conditions, safe headers, broken stores and readers who leave."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
import structlog
from yarl import URL

from tests.contract.test_object_store import s3_store
from tests.doubles.s3.behaviour import BEHAVIOURS
from tests.doubles.s3.server import S3Double
from tests.doubles.s3.signature import Key
from tests.wire.rig import MIB, PART_SIZE, running, until
from tests.wire.test_files_api import FILES, in_api, uploaded
from tusgate.core.errors import StoreUnavailable
from tusgate.core.lifecycle import advance
from tusgate.core.model import Piece, Scope, UploadId
from tusgate.ports import Attributes, Body
from tusgate.s3.config import S3Config
from tusgate.s3.profiles import PROFILES
from tusgate.s3.sign import Credentials
from tusgate.s3.store import S3Store
from tusgate.service.digest import crc64_of
from tusgate.web.api.content import LONGEST_LINK
from tusgate.web.config import WebConfig

LARGE = random.Random(1).randbytes(2 * PART_SIZE + 12_345)
HUGE = 40 * MIB


async def download(client, path, **fields):
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return await client.request("GET", f"{path}/content", named)


async def replace_object(rig, path, data):
    """Put another object where that of a file is, as somebody with access to the bucket could."""
    row = await row_of(rig, path)
    body = Body(len(data), crc64_of([data]), buffers=[data])
    await rig.store.put_object(row.object_key, body, Attributes(UploadId("somebody-elses-upload-0")))


async def row_of(rig, path):
    return await rig.database.get(Scope(), UploadId(path.rsplit("/", 1)[1]))


@asynccontextmanager
async def on_s3(home, config=None, **options):
    """Give a gateway on the strict double of S3, and the double."""
    async with S3Double(BEHAVIOURS["minio"]) as double:
        double.make_bucket("bucket")
        store = s3_store(double.as_server(), "bucket", "minio", readers=2)
        async with running(home, config, store=store, **options) as rig:
            yield rig, double


@pytest.fixture
async def large(client):
    return await uploaded(client, LARGE, "filename YS5iaW4=")


async def test_a_file_comes_back_with_what_a_browser_needs_to_save_it(client, large):
    answer = await download(client, large)
    assert (answer.status, answer.body) == (200, LARGE)
    told = answer.headers
    assert told["Content-Disposition"] == "attachment; filename=\"a.bin\"; filename*=UTF-8''a.bin"
    assert told["Content-Type"] == "application/octet-stream"
    assert told["Accept-Ranges"] == "bytes"
    assert told["Cache-Control"] == "private, no-cache"
    assert told["Last-Modified"].endswith(" GMT")
    shown = json.loads((await client.request("GET", large)).body)
    assert told["ETag"] == f'"{shown["etag"]}"'


async def test_an_empty_file_is_a_file(client):
    path = await uploaded(client, b"")
    answer = await download(client, path)
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "0", b"")
    assert (await download(client, path, Range="bytes=0-")).status == 416
    assert (await download(client, path, Range="bytes=-5")).status == 200


async def test_any_range_has_exactly_its_bytes(client, large):
    """DL-04, I17: around the edges of parts, blocks and the file."""
    chance, size = random.Random(4), len(LARGE)
    edges = [0, 1, 65_536, PART_SIZE - 1, PART_SIZE, PART_SIZE + 1, 2 * PART_SIZE, size - 1]
    ranges = [(first, last) for first in edges for last in edges if first <= last]
    ranges += [(first, chance.randrange(first, size)) for first in chance.choices(range(size), k=20)]
    for first, last in ranges:
        answer = await download(client, large, Range=f"bytes={first}-{last}")
        assert (answer.status, answer.body) == (206, LARGE[first : last + 1])
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
    for text, start in (
        (f"{size - 1}-", size - 1),
        ("-1", size - 1),
        ("-5", size - 5),
        (f"{size - 3}-{2**64}", size - 3),
    ):
        answer = await download(client, large, Range=f"bytes={text}")
        assert (answer.status, answer.body) == (206, LARGE[start:])


async def test_ranges_that_adjoin_are_one_and_others_are_the_whole_file(client, large):
    answer = await download(client, large, Range="bytes=5-9,0-4")
    assert (answer.status, answer.headers["Content-Range"]) == (206, f"bytes 0-9/{len(LARGE)}")
    answer = await download(client, large, Range="bytes=0-4,10-14")
    assert (answer.status, answer.body) == (200, LARGE)
    assert "Content-Range" not in answer.headers


async def test_a_thousand_ranges_are_one_answer_and_one_read_of_the_store(tmp_path):
    """RE-14: apart, the same one again and again, and one beyond the end after the other."""
    async with on_s3(tmp_path) as (rig, double):
        path = await uploaded(rig.client, LARGE)
        for ranges in (
            [f"{10 * each}-{10 * each + 1}" for each in range(1000)],
            ["0-"] * 1000,
            [f"{len(LARGE) + each}-" for each in range(1000)],
        ):
            before = double.count("GetObject")
            answer = await download(rig.client, path, Range="bytes=" + ",".join(ranges))
            assert (answer.status, answer.body) == (200, LARGE)
            assert double.count("GetObject") - before == 1


@pytest.mark.parametrize("wanted", [f"bytes={len(LARGE)}-", f"bytes={2**64}-", "bytes=-0"])
async def test_a_range_beyond_the_end_is_416_and_says_where_that_is(client, large, wanted):
    answer = await download(client, large, Range=wanted)
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(LARGE)}"


@pytest.mark.parametrize("wanted", ["bytes=5-2", "lines=0-4", "bytes=x"])
async def test_a_header_that_names_no_bytes_is_the_whole_file(client, large, wanted):
    assert (await download(client, large, Range=wanted)).status == 200


async def test_conditions_are_held_against_the_etag_and_the_date(client, large):
    """DL-04, DL-10."""
    whole = await client.request("HEAD", f"{large}/content")
    etag, modified = whole.headers["ETag"], whole.headers["Last-Modified"]
    assert (await download(client, large, If_Match=etag)).status == 200
    assert (await download(client, large, If_Match='"x"')).status == 412
    for condition in ({"If_None_Match": etag}, {"If_None_Match": f"W/{etag}"}, {"If_Modified_Since": modified}):
        answer = await download(client, large, **condition)
        assert (answer.status, answer.body) == (304, b"")
        assert (answer.headers["ETag"], answer.headers["Last-Modified"]) == (etag, modified)
        assert answer.headers["Cache-Control"] == whole.headers["Cache-Control"]
    for named, status in ((etag, 206), (modified, 206), (f"W/{etag}", 200), ('"x"', 200)):
        assert (await download(client, large, Range="bytes=0-4", If_Range=named)).status == status
    assert (await client.request("HEAD", f"{large}/content", {"If-None-Match": etag})).status == 304


async def test_the_etag_stays_when_the_file_is_renamed(client, large):
    before = await client.request("HEAD", f"{large}/content")
    change = json.dumps({"filename": "ä.txt", "content_type": "text/plain; charset=utf-7"}).encode()
    assert (await client.request("PATCH", large, {"Content-Type": "application/json"}, change)).status == 200
    after = await client.request("HEAD", f"{large}/content?disposition=inline")
    assert after.headers["ETag"] == before.headers["ETag"]
    assert after.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert after.headers["Content-Disposition"] == "inline; filename=\"a.txt\"; filename*=UTF-8''%C3%A4.txt"


@pytest.mark.parametrize("query", ["?disposition=show", "?inline=1", "?disposition=inline&disposition=inline"])
async def test_a_parameter_that_means_nothing_is_refused(client, large, query):
    assert (await client.request("GET", f"{large}/content{query}")).status == 400


@pytest.mark.parametrize("disposition", ["attachment", "inline"])
@pytest.mark.parametrize(
    "told", ["dGV4dC9odG1s", "aW1hZ2Uvc3ZnK3htbA==", "aW1hZ2UvcG5n", "dGV4dC9odG1sOyBjaGFyc2V0PXV0Zi03"]
)
async def test_no_upload_is_trusted_by_browsers(client, told, disposition):
    """DL-01, I18: HTML, SVG, PNG, HTML in UTF-7."""
    path = await uploaded(client, b"<script>alert(1)</script>", f"filename eC5odG1s,filetype {told}")
    answer = await client.request("GET", f"{path}/content?disposition={disposition}")
    policy = answer.headers["Content-Security-Policy"]
    assert "sandbox" in policy.split("; ")
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-site"
    is_png = told == "aW1hZ2UvcG5n"
    assert answer.headers["Content-Type"] == ("image/png" if is_png else "application/octet-stream")
    assert answer.headers["Content-Disposition"].startswith(
        "inline;" if is_png and disposition == "inline" else "attachment;"
    )


async def test_what_metadata_says_about_coding_and_caching_is_not_repeated(client):
    """DL-09: contentEncoding gzip, cacheControl public."""
    path = await uploaded(client, b"x", "contentEncoding Z3ppcA==,cacheControl cHVibGlj")
    answer = await download(client, path)
    assert "Content-Encoding" not in answer.headers
    assert answer.headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize("coding", ["gzip", "GZip", "x-gzip"])  # RFC 9110, 8.4.1.3: the same
async def test_a_file_that_was_sent_coded_comes_back_coded(client, coding):
    async with client.connect() as connection:
        connection.send_head("PUT", "/files/a.txt", {"Content-Encoding": coding, "Content-Length": "5"})
        connection.up.write(b"\x1f\x8b...")
        sent = await connection.answer()
    answer = await download(client, in_api(sent.upload_path))
    assert (answer.headers["Content-Encoding"], answer.body) == ("gzip", b"\x1f\x8b...")


async def test_a_file_that_is_not_whole_is_never_given_away(rig, client):
    """DL-05: unfinished and being finished 409, failed and expired 410; not one byte of them."""
    unfinished = await client.create(10)
    await client.patch(unfinished, 0, b"secret")
    answer = await download(client, in_api(unfinished))
    assert (answer.status, json.loads(answer.body)["code"]) == (409, "not_complete")
    finishing = await client.create(10)
    written, _ = await rig.database.claim(await rig.row(finishing), "another process")
    await rig.database.commit(written, advance(written, 10, 10, pieces=(Piece(0, 10, 0, None, b"not secret"),)))
    answer = await download(client, in_api(finishing))
    assert (answer.status, json.loads(answer.body)["code"]) == (409, "not_complete")
    failed = await client.create(10)
    await rig.database.fail(await rig.row(failed), "broken")
    answer = await download(client, in_api(failed))
    assert (answer.status, json.loads(answer.body)["code"]) == (410, "gone")
    await rig.expire()
    answer = await download(client, in_api(unfinished))
    assert (answer.status, b"secret" in answer.body) == (410, False)


@pytest.mark.parametrize("size", [len(LARGE), 7])
@pytest.mark.parametrize("wanted", [{}, {"Range": "bytes=0-4"}])
async def test_another_object_in_the_place_of_ours_is_not_given_away(rig, client, large, size, wanted):
    """DL-07, I3: 502, and operators are told."""
    await replace_object(rig, large, random.Random(2).randbytes(size))
    with structlog.testing.capture_logs() as logs:
        answer = await download(client, large, **wanted)
    assert (answer.status, json.loads(answer.body)["code"]) == (502, "object_lost")
    row = await row_of(rig, large)
    (line,) = [log for log in logs if log["event"] == "download.object_lost"]
    assert (line["log_level"], line["upload_id"]) == ("error", row.id)


async def test_an_object_that_is_gone_is_502(rig, client, large):
    await rig.store.delete_objects([(await row_of(rig, large)).object_key])
    assert (await download(client, large)).status == 502


@pytest.mark.parametrize("at", [0, len(LARGE) - 1])
async def test_bytes_that_rotted_in_the_store_are_not_taken_for_the_file(tmp_path, at):
    """I3: a store does not notice; the checksum of the whole does before the last bytes are sent."""
    async with on_s3(tmp_path) as (rig, double):
        path = await uploaded(rig.client, LARGE)
        small = await uploaded(rig.client, b"hello")
        for each, place in ((path, at), (small, 0)):
            double.buckets["bucket"].rot(f"uploads/{(await row_of(rig, each)).object_key}", place)
        assert (await download(rig.client, small)).status == 502  # not one byte was sent yet
        with pytest.raises(asyncio.IncompleteReadError):
            await download(rig.client, path)


async def test_a_store_that_fails_in_the_middle_breaks_the_connection(tmp_path, monkeypatch):
    """I17: never a clean end before the end, and nothing else on that connection."""
    async with on_s3(tmp_path) as (rig, double):
        path = await uploaded(rig.client, LARGE)
        reading = rig.store.read

        async def failing(*arguments, **named):
            left = 2 * MIB
            async for chunk in reading(*arguments, **named):
                yield chunk
                left -= len(chunk)
                if left <= 0:
                    raise StoreUnavailable("the store has gone away")

        monkeypatch.setattr(rig.store, "read", failing)
        with structlog.testing.capture_logs() as logs:
            async with rig.client.connect() as connection:
                connection.send_head("GET", f"{path}/content", {})
                with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                    await connection.answer()
        assert [log["event"] for log in logs] == ["download.broken"]
        monkeypatch.undo()
        assert (await download(rig.client, path)).body == LARGE
        await double.stop()
        assert (await download(rig.client, path)).status == 503


async def test_a_reader_who_leaves_takes_the_connection_to_the_store_along(tmp_path):
    """DL-10, I15: there are two such connections, and one that is not given back would be missed."""
    async with on_s3(tmp_path) as (rig, _):
        path = await uploaded(rig.client, LARGE)
        for _ in range(30):
            async with rig.client.connect() as connection:
                connection.send_head("GET", f"{path}/content", {})
                await connection.up.drain()
                await connection.some(1000)

            async def nobody_reads():
                return rig.files.downloads == 0

            await until(nobody_reads)
        async with asyncio.timeout(30):
            assert (await download(rig.client, path)).body == LARGE
        assert rig.files.downloads == 0


async def test_more_readers_than_there_may_be_are_told_to_come_back(tmp_path):
    async with on_s3(tmp_path, most_downloads=2) as (rig, _):
        path = await uploaded(rig.client, random.Random(3).randbytes(HUGE))
        small = await uploaded(rig.client, b"hello")
        async with rig.client.connect() as one, rig.client.connect() as two:
            for connection in (one, two):
                narrow(connection)
                connection.send_head("GET", f"{path}/content", {})
                await connection.some(1000)
            answer = await download(rig.client, small)
            assert (answer.status, json.loads(answer.body)["code"]) == (503, "too_many_downloads")
            assert "Retry-After" in answer.headers
            assert (await rig.client.request("HEAD", f"{small}/content")).status == 200

        async def nobody_reads():
            return rig.files.downloads == 0

        await until(nobody_reads)
        assert (await download(rig.client, small)).body == b"hello"


async def test_a_reader_who_is_too_slow_is_cut_off(tmp_path):
    """I15: by the rate that holds for uploads; what is left of the file is never sent."""
    config = WebConfig(min_rate=1 << 20, rate_window=0.5)
    async with on_s3(tmp_path, config) as (rig, _):
        path = await uploaded(rig.client, random.Random(3).randbytes(HUGE))
        async with rig.client.connect() as connection:
            narrow(connection)
            with structlog.testing.capture_logs() as logs:
                connection.send_head("GET", f"{path}/content", {})

                async def nobody_reads():
                    return bool(logs) and rig.files.downloads == 0

                await until(nobody_reads)
            assert [log["event"] for log in logs] == ["download.stalled"]
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await connection.answer()


def narrow(connection):
    """Let the kernel keep little for a reader who does not read."""
    connection.up.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)


async def test_a_redirect_leads_to_the_store_for_five_minutes(tmp_path):
    """DL-03: the type and the name are ours there too, and nobody keeps the redirect."""
    async with on_s3(tmp_path, WebConfig(downloads="redirect")) as (rig, _):
        path = await uploaded(rig.client, LARGE)
        for method in ("GET", "HEAD"):
            answer = await rig.client.request(method, f"{path}/content")
            assert (answer.status, answer.headers["Cache-Control"]) == (302, "no-store")
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            link = answer.headers["Location"]
            assert int(parse_qs(urlsplit(link).query)["X-Amz-Expires"][0]) == LONGEST_LINK == 300
            async with aiohttp.ClientSession() as session, session.request(method, URL(link, encoded=True)) as stored:
                assert stored.status == 200
                assert await stored.read() == (LARGE if method == "GET" else b"")
                assert stored.headers["Content-Type"] == "application/octet-stream"
                assert stored.headers["Content-Disposition"].startswith("attachment; filename=")
                assert stored.headers["Cache-Control"] == "private, no-cache"
        unfinished = in_api(await rig.client.create(5))
        assert (await download(rig.client, unfinished)).status == 409
        await rig.client.request("DELETE", path)
        assert (await download(rig.client, path)).status == 410


async def test_where_the_store_has_no_urls_the_bytes_come_from_us(start):
    client = (await start(WebConfig(downloads="redirect"))).client
    assert (await download(client, await uploaded(client))).body == b"hello"


async def test_downloads_can_be_switched_off(start):
    client = (await start(WebConfig(downloads="off"))).client
    path = await uploaded(client)
    answer = await download(client, path)
    assert (answer.status, json.loads(answer.body)["code"]) == (403, "downloads_off")
    assert json.loads((await client.request("GET", path)).body)["links"]["content"] is None


async def test_files_are_handed_out_under_the_host_for_downloads_only(start):
    client = (await start(WebConfig(download_url="https://dl.test"))).client
    path = await uploaded(client)
    assert json.loads((await client.request("GET", path)).body)["links"]["content"] == f"https://dl.test{path}/content"
    answer = await client.request("GET", f"{path}/content?disposition=inline", {"Host": "app.test"})
    assert (answer.status, answer.body) == (302, b"")
    assert answer.headers["Location"] == f"https://dl.test{path}/content?disposition=inline"
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await client.request("GET", f"{path}/content", {"Host": "dl.test"})).body == b"hello"


async def test_the_host_for_downloads_is_known_where_there_is_a_public_address_too(start):
    config = WebConfig(public_url="https://app.test", download_url="https://dl.test")
    client = (await start(config)).client
    path = await uploaded(client)
    assert (await client.request("GET", f"{path}/content", {"Host": "dl.test"})).body == b"hello"
    assert (await client.request("GET", f"{path}/content", {"Host": "app.test"})).status == 302


CDN_TOKENS = ("o" * 32, "n" * 32)
BEHIND_A_CDN = WebConfig(download_url="https://dl.test", origin_tokens=CDN_TOKENS)


@pytest.mark.parametrize("token", CDN_TOKENS)
async def test_with_origin_tokens_files_are_handed_out_to_whoever_shows_one(start, token):
    client = (await start(BEHIND_A_CDN)).client
    path = await uploaded(client)
    named = {"Host": "dl.test", "X-Origin-Token": token}
    assert (await client.request("GET", f"{path}/content", named)).body == b"hello"
    assert (await client.request("HEAD", f"{path}/content", named)).status == 200


@pytest.mark.parametrize(
    "shown",
    [[], [""], ["o" * 31], ["o" * 33], ["O" * 32], ["\udcff" * 32], ["o" * 32, "o" * 32], [f"{'o' * 32},{'n' * 32}"]],
    ids=["none", "empty", "shorter", "longer", "another case", "no text", "two fields", "a list"],
)
async def test_who_goes_around_the_cdn_is_refused_whether_there_is_a_file_or_not(start, shown):
    client = (await start(BEHIND_A_CDN)).client
    path = await uploaded(client)
    fields = [("Host", "dl.test"), *(("X-Origin-Token", value) for value in shown)]
    for file in (path, f"{FILES}/{'A' * 24}"):
        answer = await client.request("GET", f"{file}/content", fields)
        assert (answer.status, json.loads(answer.body)["code"]) == (403, "origin_token_missing")
        assert answer.headers["Cache-Control"] == "no-store"
        assert not any(value in answer.body.decode() for value in CDN_TOKENS)
    assert (await client.request("HEAD", f"{path}/content", fields)).status == 403


async def test_an_origin_token_opens_no_other_host(start):
    client = (await start(BEHIND_A_CDN)).client
    path = await uploaded(client)
    answer = await client.request("GET", f"{path}/content", {"Host": "app.test", "X-Origin-Token": CDN_TOKENS[0]})
    assert (answer.status, answer.headers["Location"]) == (302, f"https://dl.test{path}/content")
    assert (await client.request("GET", path, {"Host": "app.test"})).status == 200, "what is no download needs none"


async def test_a_cache_may_keep_files_where_the_settings_say_so(start):
    client = (await start(WebConfig(download_cache_control="public, max-age=60"))).client
    assert (await download(client, await uploaded(client))).headers["Cache-Control"] == "public, max-age=60"


async def test_a_body_in_front_of_a_download_cannot_smuggle_anything(client, large):
    """V: what follows a chunked body may be read as the next request, see `errors.add_shared_headers`."""
    async with client.connect() as connection:
        connection.send_head("GET", f"{large}/content", {"Transfer-Encoding": "chunked"})
        connection.send_chunk(b"")
        answer = await connection.answer()
        assert (answer.status, answer.body) == (200, LARGE)
        assert answer.headers["Connection"] == "close"


async def test_several_downloads_follow_each_other_on_one_connection(client, large):
    async with client.connect() as connection:
        for _ in range(3):
            connection.send_head("GET", f"{large}/content", {"Range": "bytes=1-9"})
            assert (await connection.answer()).body == LARGE[1:10]
        connection.send_head("GET", FILES, {})
        assert (await connection.answer()).status == 200


async def test_urls_that_are_handed_out_are_signed_by_a_key_of_their_own(tmp_path):
    """DL-03: whoever sees one learns the id of a key that may do nothing else; all else is done with ours."""
    async with S3Double(BEHAVIOURS["minio"]) as double:
        double.make_bucket("bucket")
        double.gate.keys["reader"] = Key("only for reading")
        server = double.as_server()
        config = S3Config(
            endpoint=server.endpoint,
            region=server.region,
            bucket="bucket",
            prefix="",
            access_key=server.access_key,
            secret_key=server.secret_key,
            profile=PROFILES["minio"],
            presign_key=Credentials("reader", "only for reading"),
        )
        async with running(tmp_path, WebConfig(downloads="redirect"), store=S3Store(config)) as rig:
            path = await uploaded(rig.client, LARGE)
            link = (await download(rig.client, path)).headers["Location"]
            assert parse_qs(urlsplit(link).query)["X-Amz-Credential"][0].split("/")[0] == "reader"
            assert server.access_key not in link
            async with aiohttp.ClientSession() as session, session.get(URL(link, encoded=True)) as answer:
                assert await answer.read() == LARGE
            del double.gate.keys["reader"]
            async with aiohttp.ClientSession() as session, session.get(URL(link, encoded=True)) as answer:
                assert answer.status == 403
            assert (await rig.client.request("GET", path)).status == 200
            await uploaded(rig.client, b"uploads go on")
