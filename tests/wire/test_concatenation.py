from __future__ import annotations

import asyncio
import base64
from urllib.parse import urlsplit

import pytest

from tests.wire.client import CT, V
from tests.wire.rig import until
from tests.wire.rufh import RufhClient
from tests.wire.test_downloads import on_s3
from tusgate.core.grid import MIB, Grid
from tusgate.core.model import CreatedVia, NewUpload, ObjectKey, Role, Scope, UploadId
from tusgate.web.config import WebConfig

PARTIAL = {"Upload-Concat": "partial"}


def metadata(**values):
    return ",".join(f"{key.replace('_', '-')} {base64.b64encode(value).decode()}" for key, value in values.items())


async def a_partial(client, data, **more):
    path = await client.create(len(data), **{"Upload-Concat": "partial", **more})
    if data:
        assert (await client.patch(path, 0, data)).status == 204
    return path


async def own_host(client):
    return urlsplit((await client.post({**PARTIAL, "Upload-Length": "0"})).headers["Location"]).netloc


async def concatenate(client, *urls, **more):
    return await client.post({"Upload-Concat": "final;" + " ".join(urls), **more})


@pytest.mark.spec("CAT-01", "CAT-02")
async def test_a_partial_says_so_and_always_tells_its_offset(rig):
    answer = await rig.client.post({**PARTIAL, "Upload-Length": "10"})
    assert answer.status == 201
    for sent in (b"", b"hello"):
        await rig.client.patch(answer.upload_path, 0, sent)
        head = await rig.client.head(answer.upload_path)
        assert (head.headers["Upload-Concat"], head.offset) == ("partial", len(sent))


@pytest.mark.spec("CAT-03", "CAT-04", "CAT-13", "CAT-19")
async def test_a_final_is_its_partials_in_the_order_of_the_list(rig):
    a = await a_partial(rig.client, b"hello ", **{"Upload-Metadata": metadata(filename=b"a.txt")})
    b = await a_partial(rig.client, b"world")
    answer = await concatenate(rig.client, a, b)
    assert (answer.status, "Upload-Offset" in answer.headers) == (201, False)
    head = await rig.client.head(answer.upload_path)
    assert (head.status, head.offset, head.headers["Upload-Length"]) == (200, 11, "11")
    assert head.headers["Upload-Concat"] == f"final;{a} {b}"
    assert "Upload-Metadata" not in head.headers
    assert "Upload-Expires" not in head.headers
    assert await rig.stored(answer.upload_path) == b"hello world"
    assert (await concatenate(rig.client, b, a)).status == 201


async def test_the_metadata_of_a_final_is_that_of_its_own_request(rig):
    a = await a_partial(rig.client, b"hello")
    given = metadata(filename=b"b.txt", filetype=b"text/plain")
    answer = await concatenate(rig.client, a, **{"Upload-Metadata": given})
    assert (await rig.client.head(answer.upload_path)).headers["Upload-Metadata"] == given
    row = await rig.row(answer.upload_path)
    assert (row.filename, row.content_type) == ("b.txt", "text/plain")


@pytest.mark.spec("CAT-05")
@pytest.mark.parametrize("more", [{"Upload-Length": "5"}, {"Upload-Length": "0"}, {"Upload-Defer-Length": "1"}])
async def test_the_length_of_a_final_is_not_for_the_client_to_say(rig, more):
    a = await a_partial(rig.client, b"hello")
    answer = await concatenate(rig.client, a, **more)
    assert answer.status == 400
    assert next(iter(more)).encode() in answer.body
    assert await rig.count() == 1


@pytest.mark.spec("CWU-07")
async def test_a_final_brings_no_bytes(rig):
    a = await a_partial(rig.client, b"hello")
    answer = await rig.client.post({"Upload-Concat": f"final;{a}", **CT}, b"more")
    assert answer.status == 403
    assert await rig.count() == 1


@pytest.mark.spec("CAT-06")
async def test_a_patch_of_a_final_is_403_and_changes_nothing(rig):
    a = await a_partial(rig.client, b"hello")
    final = (await concatenate(rig.client, a)).upload_path
    for offset in (0, 5):
        answer = await rig.client.patch(final, offset, b"more")
        assert (answer.status, "Upload-Offset" in answer.headers) == (403, False)
    assert await rig.stored(final) == b"hello"
    assert (await rig.client.head(a)).offset == 5


@pytest.mark.spec("CAT-07")
async def test_an_unfinished_partial_is_400(rig):
    a = await a_partial(rig.client, b"hello")
    b = await rig.client.create(5, **PARTIAL)
    answer = await concatenate(rig.client, a, b)
    assert answer.status == 400
    assert b"0 of 5" in answer.body
    assert await rig.count() == 2


@pytest.mark.spec("CAT-08")
async def test_an_unknown_partial_is_404(rig):
    a = await a_partial(rig.client, b"hello")
    for unknown in ("/files/unknown-upload-0123456789", "/files/x", "/files/..%2f..%2fetc", "/files/"):
        assert (await concatenate(rig.client, a, unknown)).status == 404
    assert await rig.count() == 1


async def test_a_partial_that_has_ended_is_gone(rig):
    a = await a_partial(rig.client, b"hello")
    await rig.client.delete(a)
    assert (await concatenate(rig.client, a)).status == 410


@pytest.mark.spec("CAT-09")
async def test_what_is_no_partial_is_400(rig):
    a = await a_partial(rig.client, b"hello")
    final = (await concatenate(rig.client, a)).upload_path
    ordinary = await rig.client.create(5)
    await rig.client.patch(ordinary, 0, b"world")
    for other in (final, ordinary):
        assert (await concatenate(rig.client, a, other)).status == 400


@pytest.mark.spec("CAT-10", "CAT-11")
async def test_a_partial_may_be_used_twice_and_deleted_afterwards(rig):
    a = await a_partial(rig.client, b"hello")
    twice = (await concatenate(rig.client, a, a)).upload_path
    once = (await concatenate(rig.client, a)).upload_path
    assert (await rig.client.delete(a)).status == 204
    assert await rig.stored(twice) == b"hellohello"
    assert await rig.stored(once) == b"hello"


@pytest.mark.spec("CAT-12")
async def test_urls_may_be_written_in_many_ways(rig):
    a = await a_partial(rig.client, b"hello")
    name = a.rpartition("/")[2]
    host = await own_host(rig.client)
    ways = [a, name, f"../files/{name}", f"http://{host}{a}", f"HTTP://{host}{a}", f"http://{host}/files/{name}#x"]
    ways += [f"//{host}{a}", a.replace("files", "%66iles"), f"/files/%{ord(name[0]):02x}{name[1:]}"]
    for url in ways:
        assert (await concatenate(rig.client, url)).status == 201, url


@pytest.mark.spec("CAT-12")
async def test_urls_that_lead_elsewhere_are_400(rig):
    a = await a_partial(rig.client, b"hello")
    host = await own_host(rig.client)
    ways = [f"http://evil.example{a}", f"https://{host}{a}", f"http://{host}@evil.example{a}", f"ftp://{host}{a}"]
    ways += [f"http://{host}.evil.example{a}", f"{a}?x=1", f"/other{a}", f"http://[{a}", f"//evil.example{a}"]
    for url in ways:
        answer = await concatenate(rig.client, url)
        assert (answer.status, b"Upload-Concat" in answer.body) == (400, True), url
    assert await rig.count() == 2


@pytest.mark.spec("CAT-12")
async def test_other_names_of_the_server_are_understood_when_they_are_configured(start):
    rig = await start(WebConfig(public_url="https://up.example/x", public_aliases=("https://old.example",)))
    answer = await rig.client.post({**PARTIAL, **CT, "Upload-Length": "5"}, b"hello")
    name = answer.headers["Location"].rpartition("/")[2]
    for url in (f"https://up.example/x/files/{name}", f"https://old.example/x/files/{name}", f"/x/files/{name}"):
        assert (await concatenate(rig.client, url)).status == 201, url
    assert (await concatenate(rig.client, f"https://other.example/x/files/{name}")).status == 400


@pytest.mark.spec("CAT-14")
async def test_partials_that_pass_the_largest_size_together_are_413(start):
    rig = await start(max_size=9)
    a = await a_partial(rig.client, b"hello")
    assert (await concatenate(rig.client, a, a)).status == 413
    assert await rig.count() == 1


@pytest.mark.spec("CAT-15")
@pytest.mark.parametrize("text", ["final", "final;", "final; ", "finale;/files/a", "Partial", "", "partial;x", "group"])
async def test_a_malformed_field_is_400(rig, text):
    answer = await rig.client.post({"Upload-Concat": text, "Upload-Length": "5"})
    assert (answer.status, b"Upload-Concat" in answer.body) == (400, True)
    assert await rig.count() == 0


@pytest.mark.spec("CAT-16", "CAT-17")
async def test_empty_partials_count(rig):
    empty, a = await a_partial(rig.client, b""), await a_partial(rig.client, b"hello")
    assert await rig.stored((await concatenate(rig.client, empty, a, empty)).upload_path) == b"hello"
    final = (await concatenate(rig.client, empty, empty)).upload_path
    head = await rig.client.head(final)
    assert (head.offset, head.headers["Upload-Length"]) == (0, "0")
    assert await rig.stored(final) == b""


@pytest.mark.spec("CWU-07", "DEF-10")
async def test_a_partial_may_be_created_with_its_bytes_or_without_its_length(rig):
    a = await rig.client.post({**PARTIAL, **CT, "Upload-Length": "5"}, b"hello")
    b = await rig.client.create(None, **PARTIAL)
    assert (await concatenate(rig.client, a.upload_path, b)).status == 400
    assert (await rig.client.patch(b, 0, b"world", {"Upload-Length": "5"})).status == 204
    assert await rig.stored((await concatenate(rig.client, a.upload_path, b)).upload_path) == b"helloworld"


@pytest.mark.spec("UNF-01")
async def test_the_extension_is_announced_and_the_unfinished_one_is_not(client):
    extensions = (await client.request("OPTIONS", "/files", V)).headers["Tus-Extension"].split(",")
    assert "concatenation" in extensions
    assert "concatenation-unfinished" not in extensions


@pytest.mark.spec("DEL-08")
async def test_a_final_that_is_deleted_takes_no_partial_along(rig):
    grouped = {"Upload-Metadata": metadata(concat_group=b"one file")}
    size = 5 * MIB  # the least that may lie in place
    for a in (await a_partial(rig.client, b"hello"), await a_partial(rig.client, bytes(size), **grouped)):
        final = (await concatenate(rig.client, a)).upload_path
        assert (await rig.client.delete(final)).status == 204
        for answer in (await rig.client.head(final), await rig.client.delete(final), await rig.client.patch(final, 0)):
            assert answer.status == 410
        assert (await rig.client.head(a)).status == 200
        again = await concatenate(rig.client, a)
        assert again.upload_path != final
        assert len(await rig.stored(again.upload_path)) in (5, size)


@pytest.mark.spec("CAT-20")
@pytest.mark.parametrize("group", [{}, {"Upload-Metadata": metadata(concat_group=b"one file")}])
async def test_a_final_shows_no_offset_before_its_object_is_there(start, monkeypatch, group):
    """I5: the store takes longer over it than the client is made to wait."""
    rig = await start(finish_wait=0.05)
    a, b = [await a_partial(rig.client, bytes([n]) * 6 * MIB, **group) for n in range(2)]
    may_complete, complete = asyncio.Event(), rig.store.complete_multipart

    async def held(*arguments, **named):
        await may_complete.wait()
        return await complete(*arguments, **named)

    monkeypatch.setattr(rig.store, "complete_multipart", held)
    answer = await concatenate(rig.client, a, b)
    assert answer.status == 201
    for _ in range(2):
        head = await rig.client.head(answer.upload_path)
        assert (head.status, "Upload-Offset" in head.headers) == (200, False)
        assert head.headers["Upload-Length"] == str(12 * MIB)
        assert head.headers["Upload-Concat"] == f"final;{a} {b}"

    may_complete.set()

    async def has_offset():
        return "Upload-Offset" in (await rig.client.head(answer.upload_path)).headers

    await until(has_offset)
    assert (await rig.client.head(answer.upload_path)).offset == 12 * MIB
    assert await rig.stored(answer.upload_path) == bytes(6 * MIB) + b"\x01" * 6 * MIB


@pytest.mark.spec("SH-06")
async def test_another_protocol_cannot_write_to_partials_and_finals(rig):
    unfinished = await rig.client.create(10, **PARTIAL)
    final = (await concatenate(rig.client, await a_partial(rig.client, b"hello"))).upload_path
    for path in (unfinished, final):
        answer = await RufhClient(rig.client, 6).append(path, 0, b"hello", ends=True)
        assert answer.status == 403
    assert (await rig.client.head(unfinished)).offset == 0


@pytest.mark.spec("CAT-18")
async def test_partials_of_somebody_else_are_unknown(rig):
    a = await a_partial(rig.client, b"hello")
    stolen = await rig.database.create(
        NewUpload(
            id=UploadId("a" * 24),
            scope=Scope("default", "somebody else"),
            created_via=CreatedVia.TUS,
            length=5,
            grid=Grid(((1, 5),)),
            metadata=None,
            filename=None,
            content_type=None,
            object_key=ObjectKey("x"),
            epoch=0,
            lifetime=None,
            role=Role.PARTIAL,
        )
    )
    foreign = await concatenate(rig.client, a, f"/files/{stolen.id}")
    unknown = await concatenate(rig.client, a, "/files/" + "b" * 24)
    assert (foreign.status, foreign.body) == (unknown.status, unknown.body)
    assert foreign.status == 404


async def test_a_list_that_is_refused_makes_nobody_look_into_the_store(tmp_path):
    """PA-19, I4, I13: whatever stands in it."""
    async with on_s3(tmp_path) as (rig, double):
        a = await a_partial(rig.client, b"hello")
        unfinished = await rig.client.create(5, **PARTIAL)
        double.history.clear()
        for urls, more, status in (
            ([a, unfinished], {}, 400),
            ([a, "../x"], {}, 400),
            ([a, "/files/../../x"], {}, 400),
            ([a, "/files/..%2f..%2fx"], {}, 404),
            ([a, "http://evil.example/x"], {}, 400),
            ([a], {"Upload-Length": "5"}, 400),
        ):
            assert (await concatenate(rig.client, *urls, **more)).status == status, urls
        assert double.history == []
        final = (await concatenate(rig.client, a, a)).upload_path
        assert await rig.stored(final) == b"hellohello"
        assert (await rig.client.patch(final, 10, b"x")).status == 403


async def test_a_hundred_partials_in_one_list(rig):
    paths = [await a_partial(rig.client, b"%d," % n) for n in range(100)]
    answer = await concatenate(rig.client, *paths)
    assert await rig.stored(answer.upload_path) == b"".join(b"%d," % n for n in range(100))


@pytest.mark.parametrize(
    "values",
    [{"concat_group": b"x" * 201}, {"concat_group": b"a\nb"}, {"concat_group": b"g", "concat_lengths": b"1,x"}],
)
async def test_a_malformed_group_is_400(rig, values):
    answer = await rig.client.post({**PARTIAL, "Upload-Length": "5", "Upload-Metadata": metadata(**values)})
    assert (answer.status, b"Upload-Metadata" in answer.body) == (400, True)
    assert await rig.count() == 0


async def test_what_is_no_partial_may_have_any_metadata(rig):
    path = await rig.client.create(5, **{"Upload-Metadata": metadata(concat_group=b"g", concat_lengths=b"x")})
    assert (await rig.row(path)).group is None
