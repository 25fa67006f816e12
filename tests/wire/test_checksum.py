from __future__ import annotations

import base64
import hashlib
import zlib

import pytest
from awscrt import checksums

from tests.wire.client import CT, V
from tests.wire.rig import MIB

HELLO = b"hello world"
SHA1 = "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="
NOTHING = "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk="


def announced(algorithm, digest):
    return {"Upload-Checksum": f"{algorithm} {base64.b64encode(digest).decode()}"}


DIGESTS = {
    "sha1": hashlib.sha1(HELLO).digest(),
    "md5": hashlib.md5(HELLO).digest(),
    "sha256": hashlib.sha256(HELLO).digest(),
    "sha512": hashlib.sha512(HELLO).digest(),
    "crc32": zlib.crc32(HELLO).to_bytes(4, "big"),
    "crc32c": checksums.crc32c(HELLO).to_bytes(4, "big"),
    "crc64nvme": checksums.crc64nvme(HELLO).to_bytes(8, "big"),
}


@pytest.mark.spec("SUM-02", "OPT-06")
async def test_every_listed_algorithm_verifies(rig):
    listed = (await rig.client.request("OPTIONS", "/files")).headers["Tus-Checksum-Algorithm"].split(",")
    assert set(listed) == DIGESTS.keys()
    for algorithm in listed:
        path = await rig.client.create(len(HELLO))
        answer = await rig.client.patch(path, 0, HELLO, announced(algorithm, DIGESTS[algorithm]))
        assert (answer.status, answer.offset) == (204, 11)
        assert await rig.stored(path) == HELLO


@pytest.mark.spec("SUM-03", "SUM-04", "SUM-09", "SUM-11")
@pytest.mark.parametrize("length", [11, 22])
async def test_a_wrong_digest_is_460_and_the_right_one_then_succeeds(rig, length):
    """PA-15."""
    path = await rig.client.create(length)
    answer = await rig.client.patch(path, 0, HELLO, {"Upload-Checksum": NOTHING})
    assert (answer.status, answer.reason) == (460, "Checksum Mismatch")
    assert await rig.client.offset(path) == 0
    assert (await rig.client.patch(path, 0, HELLO, {"Upload-Checksum": SHA1})).status == 204


@pytest.mark.spec("SUM-03")
async def test_a_wrong_digest_over_several_parts_keeps_nothing(rig):
    """PA-15, I9."""
    payload = bytes(11 * MIB)
    path = await rig.client.create(len(payload))
    assert (await rig.client.patch(path, 0, payload, {"Upload-Checksum": SHA1})).status == 460
    assert await rig.client.offset(path) == 0
    right = announced("sha256", hashlib.sha256(payload).digest())
    assert (await rig.client.patch(path, 0, payload, right)).status == 204
    assert await rig.stored(path) == payload


@pytest.mark.spec("SUM-05", "SUM-06", "SUM-07")
@pytest.mark.parametrize(
    "text",
    [
        "md4 MdbP4NFq6TG3PFnX4MCJwA==",
        "SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1",
        "",
        "sha1 !!!",
        "sha1 YWJj",
        SHA1 + " x",
    ],
)
async def test_an_unknown_algorithm_or_malformed_digest_is_400_before_the_body(client, text):
    """PA-15."""
    path = await client.create(11)
    async with client.connect() as connection:
        fields = {**V, **CT, "Upload-Offset": "0", "Content-Length": "11", "Upload-Checksum": text}
        connection.send_head("PATCH", path, fields)
        answer = await connection.answer()
    assert answer.status == 400
    assert b"Upload-Checksum" in answer.body
    assert await client.offset(path) == 0


@pytest.mark.spec("SUM-07")
async def test_two_checksums_are_400(client):
    path = await client.create(11)
    fields = [*V.items(), *CT.items(), ("Upload-Offset", "0"), ("Upload-Checksum", SHA1), ("Upload-Checksum", SHA1)]
    assert (await client.request("PATCH", path, fields, HELLO)).status == 400


@pytest.mark.spec("SUM-08")
async def test_a_cut_body_with_a_checksum_keeps_nothing(rig):
    path = await rig.client.create(11)
    async with rig.client.connect() as connection:
        fields = {**V, **CT, "Upload-Offset": "0", "Content-Length": "11", "Upload-Checksum": SHA1}
        connection.send_head("PATCH", path, fields)
        connection.up.write(HELLO[:5])
        await rig.until_taken_in(5)
        connection.up.write_eof()
        await connection.rest()
    await rig.writers.drain()
    assert (await rig.row(path)).offset == 0


@pytest.mark.spec("SUM-10")
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_digest_of_nothing_verifies_an_empty_body(client, chunked):
    path = await client.create(11)
    assert (await client.patch(path, 0, b"", {"Upload-Checksum": NOTHING}, chunked=chunked)).status == 204
    assert (await client.patch(path, 0, b"", {"Upload-Checksum": SHA1}, chunked=chunked)).status == 460


@pytest.mark.spec("SUM-13")
async def test_the_digest_covers_this_request_and_not_the_file_nor_its_framing(client):
    path = await client.create(16)
    assert (await client.patch(path, 0, b"intro")).status == 204
    assert (await client.patch(path, 5, HELLO, {"Upload-Checksum": SHA1}, chunked=True)).status == 204


@pytest.mark.spec("TRL-05")
async def test_a_checksum_announced_as_trailer_is_refused_because_it_would_not_be_checked(client):
    path = await client.create(11)
    assert (await client.patch(path, 0, HELLO, {"Trailer": "Upload-Checksum"}, chunked=True)).status == 400
    assert await client.offset(path) == 0
