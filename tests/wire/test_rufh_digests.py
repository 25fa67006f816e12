"""Digests of RFC 9530 in RUFH and in plain uploads."""

from __future__ import annotations

import base64
import hashlib

import pytest
from awscrt import checksums

from tests.wire.rig import MIB
from tests.wire.rufh import RufhClient, problem
from tusgate.core.model import State

HELLO = b"hello world"
LARGE = bytes(range(256)) * (11 * MIB // 256)


def digest(name: str, data: bytes) -> str:
    """Return the field value for `data` by the RFC 9530 name of the algorithm."""
    if name == "crc32c":
        value = checksums.crc32c(data).to_bytes(4, "big")
    else:
        value = hashlib.new(name.replace("-", "") if name != "sha" else "sha1", data).digest()
    return f"{name}=:{base64.b64encode(value).decode()}:"


@pytest.fixture
def rufh(rig):
    return RufhClient(rig.client, 6)


@pytest.mark.spec("R-DIG-01")
@pytest.mark.parametrize("name", ["sha-256", "sha-512", "sha", "md5", "crc32c"])
@pytest.mark.parametrize("field", ["Content_Digest", "Repr_Digest"])
async def test_a_right_digest_is_taken_and_a_wrong_one_leaves_nothing(rig, rufh, name, field):
    answer = await rufh.create(HELLO, ends=True, **{field: digest(name, HELLO)})
    assert answer.status == 201
    assert await rig.stored(answer.upload_path) == HELLO
    answer = await rufh.create(HELLO, ends=True, **{field: digest(name, b"other")})
    assert (answer.status, problem(answer)["code"]) == (400, "checksum_mismatch")
    assert (await rufh.head(answer.early[0].upload_path)).status == 404
    assert await rig.count() == 1


@pytest.mark.spec("R-DIG-01")
@pytest.mark.parametrize("body", [HELLO, LARGE])
@pytest.mark.parametrize("ends", [False, True])
async def test_a_wrong_digest_of_an_append_keeps_nothing_of_it(rig, rufh, body, ends):
    path = (await rufh.create(HELLO)).upload_path
    answer = await rufh.append(path, 11, body, ends=ends, Content_Digest=digest("sha-256", HELLO[:5]))
    assert (answer.status, answer.headers["Upload-Complete"]) == (400, "?0")
    row = await rig.row(path)
    assert (row.offset, row.state) == (11, State.UPLOADING)
    answer = await rufh.append(path, 11, body, ends=True, Content_Digest=digest("sha-256", body))
    assert answer.status == 201
    assert await rig.stored(path) == HELLO + body


@pytest.mark.spec("R-DIG-02")
async def test_a_digest_of_the_whole_file_says_nothing_about_a_part_of_it(rig, rufh):
    path = (await rufh.create(HELLO, Repr_Digest=digest("sha-256", HELLO * 2))).upload_path
    answer = await rufh.append(path, 11, HELLO, ends=True, Repr_Digest=digest("sha-256", HELLO * 2))
    assert answer.status == 201
    assert await rig.stored(path) == HELLO * 2


@pytest.mark.spec("R-DIG-02")
async def test_an_append_that_is_the_whole_file_is_held_against_its_digest(rig, rufh):
    path = await rufh.begin()
    assert (await rufh.append(path, 0, HELLO, ends=True, Repr_Digest=digest("sha-512", b"other"))).status == 400
    assert (await rufh.append(path, 0, HELLO, ends=True, Repr_Digest=digest("sha-512", HELLO))).status == 201


@pytest.mark.spec("R-DIG-01")
async def test_of_several_digests_the_strongest_counts(rufh):
    both = f"{digest('md5', b'other')}, {digest('sha-512', HELLO)}, unknown=:AA==:"
    assert (await rufh.create(HELLO, ends=True, Content_Digest=both)).status == 201
    both = f"{digest('md5', HELLO)}, {digest('sha-512', b'other')}"
    assert (await rufh.create(HELLO, ends=True, Content_Digest=both)).status == 400


@pytest.mark.spec("R-DIG-03")
@pytest.mark.parametrize(
    "text",
    [
        "sha-256",
        "sha-256=abc",
        "sha-256=:AA==:",
        "sha-256=:!!!:",
        "SHA-256=:AA==:",
        digest("sha-256", HELLO) + ", sha-512=:AA==:",
    ],
)
async def test_a_malformed_digest_is_400_and_creates_nothing(rig, rufh, text):
    assert (await rufh.create(HELLO, ends=True, Content_Digest=text)).status == 400
    assert await rig.count() == 0


@pytest.mark.spec("R-DIG-03")
async def test_an_unknown_algorithm_is_ignored(rufh):
    assert (await rufh.create(HELLO, ends=True, Content_Digest="unixsum=:AA==:")).status == 201


@pytest.mark.spec("R-DIG-03")
async def test_two_digests_of_the_same_bytes_must_not_differ(rig, rufh):
    fields = {"Content_Digest": digest("sha-256", HELLO), "Repr_Digest": digest("sha-256", b"other")}
    assert (await rufh.create(HELLO, ends=True, **fields)).status == 400
    assert await rig.count() == 0


@pytest.mark.spec("R-DIG-01")
async def test_a_cut_append_with_a_digest_keeps_nothing(rig, rufh):
    path = await rufh.begin()
    async with rig.client.connect() as connection:
        fields = rufh.draft.append(0, ends=True) | {"Content-Digest": digest("sha-256", LARGE)}
        connection.send_head("PATCH", path, fields | {"Content-Length": str(len(LARGE))})
        connection.up.write(LARGE[:1000])
        await rig.until_taken_in(1000)
    assert (await rufh.head(path)).offset == 0
