from __future__ import annotations

import asyncio
import base64

import pytest

from tests.wire.client import CT, V
from tusgate.core.errors import UploadNotFound
from tusgate.core.model import UPLOAD_ID, State
from tusgate.web.config import WebConfig

LENGTH = {"Upload-Length": "100"}


@pytest.mark.spec("CRE-01", "CRE-08", "CRE-19", "HEAD-02", "CRE-15")
@pytest.mark.parametrize("more", [{}, {"Content-Type": "text/plain"}, {"Content-Length": "0"}])
async def test_a_creation_is_201_with_an_absolute_location_that_knows_the_upload(client, more):
    answer = await client.post(LENGTH | more)
    assert answer.status == 201
    assert answer.headers["Location"].startswith("http://gateway.test/files/")
    assert "Upload-Offset" not in answer.headers
    head = await client.head(answer.upload_path)
    assert (head.offset, head.headers["Upload-Length"]) == (0, "100")


@pytest.mark.spec("CRE-08")
async def test_the_location_stands_on_the_configured_address(start):
    """PA-23."""
    rig = await start(WebConfig(public_url="https://up.example/tusgate", base_path="/files"))
    answer = await rig.client.post([("Host", "evil"), *LENGTH.items()])
    assert answer.headers["Location"].startswith("https://up.example/tusgate/files/")


async def test_a_malformed_host_creates_nothing(rig):
    answer = await rig.client.post([("Host", "a b"), *LENGTH.items()])
    assert answer.status == 400
    assert await rig.count() == 0


@pytest.mark.spec("CRE-18")
async def test_creation_works_with_a_trailing_slash_and_without_a_redirect(client):
    assert (await client.request("POST", "/files/", V | LENGTH)).status == 201


@pytest.mark.spec("CRE-16")
async def test_equal_creations_make_different_unguessable_uploads(client):
    paths = {await client.create(100) for _ in range(5)}
    assert len(paths) == 5
    assert all(UPLOAD_ID.fullmatch(path.rsplit("/", 1)[1]) for path in paths)


@pytest.mark.spec("CRE-02", "CRE-03", "CRE-04", "CRE-05", "NUM-02", "DEF-01")
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"Upload-Length": "5", "Upload-Defer-Length": "1"},
        *(
            {"Upload-Length": bad}
            for bad in ("-1", "-0", "+5", "1.0", "1e3", "0x10", "1_0", "٣", "", "5,5", "9" * 5000)
        ),
        {"Upload-Length": str(2**63)},
        *({"Upload-Defer-Length": bad} for bad in ("0", "2", "true", "", "11")),
    ],
)
async def test_an_unclear_length_is_400_naming_the_field_and_creates_nothing(rig, fields):
    """PA-03, PA-06."""
    answer = await rig.client.post(fields)
    assert answer.status == 400
    assert answer.body.startswith((b"invalid_request: Upload-Length", b"invalid_request: Upload-Defer-Length"))
    assert await rig.count() == 0


@pytest.mark.spec("NUM-01", "CRE-06")
async def test_lengths_up_to_the_maximum_are_taken(start):
    rig = await start(max_size=1000)
    assert (await rig.client.post({"Upload-Length": "1000"})).status == 201
    answer = await rig.client.post({"Upload-Length": "1001"})
    assert answer.status == 413
    assert (await rig.client.post({"Upload-Length": str(2**63 - 1)})).status == 413
    assert await rig.count() == 1


@pytest.mark.spec("CRE-07", "HEAD-03", "PATCH-11")
@pytest.mark.parametrize("with_type", [False, True])
async def test_an_upload_of_nothing_is_complete_at_once(rig, with_type):
    """PA-18."""
    answer = await rig.client.post({"Upload-Length": "0", **(CT if with_type else {})}, b"" if with_type else None)
    assert answer.status == 201
    path = answer.upload_path
    head = await rig.client.head(path)
    assert (head.offset, head.headers["Upload-Length"]) == (0, "0")
    assert (await rig.row(path)).state is State.COMPLETE
    assert await rig.stored(path) == b""
    patched = await rig.client.patch(path, 0)
    assert (patched.status, patched.offset) == (204, 0)


@pytest.mark.spec("CRE-09", "HEAD-07")
async def test_metadata_is_echoed_byte_for_byte(client):
    """PA-14, I16."""
    raw = "is_confidential,filename dGVzdA==,b ,a /+8="
    assert (await client.head(await client.create(5, Upload_Metadata=raw))).headers["Upload-Metadata"] == raw


@pytest.mark.spec("CRE-11", "CRE-13")
@pytest.mark.parametrize(
    "raw",
    ["k", "k ,b YQ==", "a YQ==,k", "__proto__ YQ=="]
    + [
        f"filename {base64.b64encode(v).decode()}"
        for v in (b"\x00", b"\r\nX: y", b"\xff\xfe", b"\xed\xa0\x80", "🎬".encode())
    ],
)
async def test_odd_but_legal_metadata_is_taken_and_echoed(client, raw):
    """PA-14, I16."""
    assert (await client.head(await client.create(5, Upload_Metadata=raw))).headers["Upload-Metadata"] == raw


@pytest.mark.spec("CRE-12", "HEAD-07")
async def test_empty_metadata_counts_as_none(client):
    head = await client.head(await client.create(5, Upload_Metadata=""))
    assert head.status == 200
    assert "Upload-Metadata" not in head.headers


@pytest.mark.spec("CRE-10", "CRE-13")
@pytest.mark.parametrize("raw", [",a YQ==", "a b YQ==", "a !!!", "a YQ", "a Yg===", "a YQ==,a Yg==", "ключ YQ=="])
async def test_illegal_metadata_is_400_and_creates_nothing(rig, raw):
    """PA-14."""
    answer = await rig.client.post(LENGTH | {"Upload-Metadata": raw})
    assert answer.status == 400
    assert answer.body.startswith(b"invalid_request: Upload-Metadata")
    assert await rig.count() == 0


@pytest.mark.spec("CRE-10")
async def test_control_characters_do_not_even_pass_the_parser(rig):
    async with rig.client.connect() as connection:
        connection.send_head("POST", "/files", {**V, **LENGTH, "Upload-Metadata": "a\x01 YQ=="})
        assert (await connection.answer()).status == 400
    assert await rig.count() == 0


@pytest.mark.spec("CRE-14")
async def test_metadata_over_the_limit_is_431_and_8_kib_are_taken(start):
    rig = await start(WebConfig(max_metadata=8192))
    assert (await rig.client.post(LENGTH | {"Upload-Metadata": "k" * 8192})).status == 201
    answer = await rig.client.post(LENGTH | {"Upload-Metadata": "k" * 8193, "Origin": "https://page.test"})
    assert answer.status == 431
    assert "Access-Control-Allow-Origin" in answer.headers
    assert await rig.count() == 1


@pytest.mark.spec("CRE-17")
async def test_a_post_to_an_upload_is_405(client):
    answer = await client.request("POST", await client.create(5), V | LENGTH)
    assert answer.status == 405
    assert answer.headers["Allow"] == "HEAD, PATCH, DELETE, OPTIONS"


@pytest.mark.spec("CWU-01")
async def test_a_creation_may_bring_the_first_bytes(client):
    answer = await client.post({**CT, "Upload-Length": "12"}, b"hello")
    assert (answer.status, answer.offset) == (201, 5)
    head = await client.head(answer.upload_path)
    assert (head.offset, head.headers["Upload-Length"]) == (5, "12")


@pytest.mark.spec("CWU-02")
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_creation_may_bring_all_bytes(rig, chunked):
    answer = await rig.client.post({**CT, "Upload-Length": "12"}, b"hello, world", chunked=chunked)
    assert (answer.status, answer.offset) == (201, 12)
    assert "Upload-Expires" not in answer.headers
    assert await rig.stored(answer.upload_path) == b"hello, world"


@pytest.mark.spec("CWU-03")
@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", None])
async def test_a_creation_with_a_body_of_another_type_is_415_and_creates_nothing(rig, content_type):
    """PA-24."""
    fields = {"Upload-Length": "12"} | ({"Content-Type": content_type} if content_type else {})
    assert (await rig.client.post(fields, b"hello")).status == 415
    assert (await rig.client.post(fields, b"hello", chunked=True)).status == 415
    assert await rig.count() == 0


@pytest.mark.spec("CWU-04")
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_creation_that_brings_no_bytes_says_so(client, chunked):
    answer = await client.post({**CT, "Upload-Length": "12"}, b"", chunked=chunked)
    assert (answer.status, answer.offset) == (201, 0)


@pytest.mark.spec("CWU-05", "CRE-07")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", [0, 4])
async def test_a_creation_that_brings_too_much_is_413_and_creates_nothing(rig, length, chunked):
    """PA-18, PA-24."""
    answer = await rig.client.post({**CT, "Upload-Length": str(length)}, b"hello", chunked=chunked)
    assert answer.status == 413
    assert await rig.count() == 0


@pytest.mark.spec("CWU-06")
async def test_a_deferred_creation_may_bring_bytes(client):
    answer = await client.post({**CT, "Upload-Defer-Length": "1"}, b"hello")
    assert (answer.status, answer.offset) == (201, 5)
    assert (await client.head(answer.upload_path)).headers["Upload-Defer-Length"] == "1"


@pytest.mark.spec("CWU-08")
async def test_a_creation_gets_100_continue_only_after_its_headers_passed(client):
    """PA-12."""
    expect = {**V, **CT, "Expect": "100-continue", "Content-Length": "5"}
    for bad, status in (({"Upload-Length": "x"}, 400), ({"Upload-Length": "4"}, 413), ({"Tus-Resumable": "0"}, 412)):
        async with client.connect() as connection:
            connection.send_head("POST", "/files", expect | bad)
            answer = await connection.answer()
            assert (answer.status, answer.interim) == (status, [])
            assert answer.headers["Connection"] == "close"
    async with client.connect() as connection:
        connection.send_head("POST", "/files", expect | {"Upload-Length": "5"})
        connection.up.write(b"")
        answering = asyncio.ensure_future(connection.answer())
        done, _ = await asyncio.wait([answering], timeout=0.3)
        assert not done
        connection.up.write(b"hello")
        answer = await answering
        assert (answer.status, answer.interim, answer.offset) == (201, [100], 5)


@pytest.mark.spec("CWU-09", "EXP-09")
async def test_an_upload_whose_creation_was_cut_expires(rig):
    """PA-24, I11."""
    async with rig.client.connect() as connection:
        connection.send_head("POST", "/files", {**V, **CT, "Upload-Length": "100", "Content-Length": "100"})
        connection.up.write(b"hello")
        await rig.until_taken_in(5)
    await rig.writers.drain()
    await rig.expire()
    by_state = await rig.database.count_by_state()
    assert (by_state.get(State.UPLOADING, 0), by_state[State.EXPIRED]) == (0, 1)


@pytest.mark.spec("SUM-12")
async def test_the_checksum_of_a_creating_body_is_verified(rig):
    fields = {**CT, "Upload-Length": "11"}
    wrong = await rig.client.post(fields | {"Upload-Checksum": "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk="}, b"hello world")
    assert wrong.status == 460
    assert await rig.count() == 0
    right = await rig.client.post(fields | {"Upload-Checksum": "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="}, b"hello world")
    assert (right.status, right.offset) == (201, 11)


async def test_a_file_name_is_kept_clean_beside_the_raw_metadata(rig):
    name = base64.b64encode(b"../\x00evil\r\n.txt").decode()
    kind = base64.b64encode(b"text/plain").decode()
    path = await rig.client.create(5, Upload_Metadata=f"filename {name},filetype {kind}")
    upload = await rig.row(path)
    assert (upload.filename, upload.content_type) == ("evil.txt", "text/plain")


async def test_an_unknown_id_is_unknown_to_the_database_too(rig):
    with pytest.raises(UploadNotFound):
        await rig.row("/files/unknown-upload-0123456789")
