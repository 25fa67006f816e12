"""Files that are found again by what their clients tell them by: by tus, directly, and by whoever asks."""

from __future__ import annotations

import base64
import hashlib

import pytest
from awscrt.checksums import crc64nvme

from tests.wire.direct import DirectClient
from tests.wire.identity import ALICE, BOB, EVE, guarded, upload_token
from tests.wire.rig import PART_SIZE, running

DATA = bytes(range(250)) * 4
SHA256 = hashlib.sha256(DATA).hexdigest()
CRC64 = f"{crc64nvme(DATA):016x}"
OWN = "client:größe.bin-1000".replace("ö", "oe").replace("ß", "ss")


@pytest.fixture
async def rig(tmp_path, store):
    async with running(tmp_path, store=store, resumes_by_fingerprint=True) as started:
        yield started


def metadata(text):
    return {"Upload_Metadata": f"fingerprint {base64.b64encode(text.encode()).decode()}"}


async def found(client, algorithm, value):
    """Return what is shown of a fingerprint; None for 404."""
    status, answer = await client.ask("GET", f"/../fingerprints/{algorithm}/{value}")
    assert status in (200, 404), answer
    return answer if status == 200 else None


async def test_the_same_creation_is_the_same_direct_upload_until_it_is_complete(rig, client):
    """Resuming on another device: nothing is needed but the file."""
    size, same = 2 * PART_SIZE, {"fingerprint": f"sha256:{'0' * 64}"}
    upload_id, urls = await client.begin(size, **same)
    await client.put(urls[0], bytes(PART_SIZE))
    status, again = await client.ask("POST", "", {"size": size, **same})
    assert (status, again["upload"]["id"]) == (200, upload_id)
    assert [url["number"] for url in again["parts"]["urls"]] == [2]
    for other in ({"size": size + 1, **same}, {"size": size}, {"size": size, "fingerprint": OWN}):
        status, begun = await client.ask("POST", "", other)
        assert (status, begun["upload"]["id"] != upload_id) == (201, True)
    digest = {"algorithm": "sha256", "value": base64.b64encode(bytes(32)).decode()}
    assert (await client.ask("POST", "", {"size": size, "checksum": digest, **same}))[0] == 201  # declared otherwise
    await client.put(again["parts"]["urls"][0], bytes(PART_SIZE))
    assert (await client.complete(upload_id))[0] == 200


async def test_the_same_creation_of_tus_is_the_same_upload_where_that_is_wanted(rig):
    path = await rig.client.create(len(DATA), **metadata(f"sha256:{SHA256}"))
    assert (await rig.client.patch(path, 0, DATA[:100])).status == 204
    assert await rig.client.create(len(DATA), **metadata(f"sha256:{SHA256.upper()}")) == path
    assert await rig.client.offset(path) == 100
    assert await rig.client.create(len(DATA) + 1, **metadata(f"sha256:{SHA256}")) != path
    assert await rig.client.create(len(DATA)) != path
    await rig.client.patch(path, 100, DATA[100:])
    assert await rig.client.create(len(DATA), **metadata(f"sha256:{SHA256}")) != path


async def test_by_default_each_creation_of_tus_makes_an_upload(tmp_path, http):
    async with running(tmp_path) as rig:
        paths = {await rig.client.create(10, **metadata(OWN)) for _ in range(2)}
        assert len(paths) == 2
        answer = await found(DirectClient(rig.client, http), *OWN.split(":"))
        assert answer["file"]["id"] in {path.rpartition("/")[2] for path in paths}


@pytest.mark.parametrize("text", ["", "sha256:", "md5:00", "sha256:zz", "anything else", "client:" + "x" * 201])
async def test_what_is_no_fingerprint_is_only_metadata_to_tus_and_refused_by_the_api(rig, client, text):
    first = await rig.client.create(10, **metadata(text))
    assert await rig.client.create(10, **metadata(text)) != first
    status, refused = await client.ask("POST", "", {"size": 10, "fingerprint": text})
    assert (status, refused["field"]) == (400, "fingerprint")


async def test_both_doors_are_found_by_one_fingerprint(rig, client):
    """And neither is given the upload of the other one to write to."""
    tus = (await rig.client.create(2 * PART_SIZE, **metadata(OWN))).rpartition("/")[2]
    answer = await found(client, *OWN.split(":"))
    assert (answer["file"]["id"], answer["file"]["created_via"], answer["is_finished"]) == (tus, "tus", False)
    assert (answer["missing_parts"], answer["file"]["offset"]) == (None, 0)
    rig.clock.now += 1
    direct, urls = await client.begin(2 * PART_SIZE, fingerprint=OWN)
    await client.put(urls[1], bytes(PART_SIZE))
    answer = await found(client, *OWN.split(":"))
    assert (answer["file"]["id"], answer["missing_parts"]) == (direct, [1])
    assert answer["file"]["links"]["upload"].endswith(f"/api/v1/uploads/{direct}")
    assert (await rig.client.create(2 * PART_SIZE, **metadata(OWN))).rpartition("/")[2] == tus


async def test_a_finished_file_is_found_by_digests_that_somebody_has_verified_only(rig, client):
    lying = await rig.client.create(len(DATA), **metadata(f"sha256:{'1' * 64}"))
    await rig.client.patch(lying, 0, DATA)
    assert await found(client, "sha256", "1" * 64) is None
    answer = await found(client, "crc64nvme", CRC64.upper())
    assert (answer["file"]["id"], answer["is_finished"]) == (lying.rpartition("/")[2], True)
    rig.clock.now += 1
    whole = {"algorithm": "sha256", "value": base64.b64encode(bytes.fromhex(SHA256)).decode()}
    direct, urls = await client.begin(len(DATA), checksum=whole)
    assert (await found(client, "sha256", SHA256))["is_finished"] is False
    await client.put(urls[0], DATA)
    await client.complete(direct)
    answer = await found(client, "sha256", SHA256)
    assert (answer["file"]["id"], answer["is_finished"]) == (direct, True)
    await client.ask("DELETE", f"/{direct}")
    assert await found(client, "sha256", SHA256) is None


async def test_nobody_finds_the_files_of_others(tmp_path, store, http):
    """AT-13, I13: not even whether they are there."""
    async with guarded(tmp_path, store=store) as here:
        who = {scope: DirectClient(here.client, http, await here.who(scope)) for scope in (ALICE, BOB, EVE)}
        upload_id, _ = await who[ALICE].begin(len(DATA), fingerprint=OWN)
        for stranger in (BOB, EVE):
            assert await found(who[stranger], *OWN.split(":")) is None
            assert (await who[stranger].begin(len(DATA), fingerprint=OWN))[0] != upload_id
        with_token = DirectClient(here.client, http, upload_token(jti="a new one"))
        assert (await with_token.begin(len(DATA), fingerprint=OWN))[0] != upload_id


@pytest.mark.parametrize("path", ["md5/00", "sha256/00", f"sha256/{SHA256}0", "client/a%2Fb", "crc64nvme/xyz"])
async def test_what_is_no_fingerprint_finds_nothing(client, path):
    status, refused = await client.ask("GET", f"/../fingerprints/{path}")
    assert (status, refused["code"]) in ((400, "invalid_request"), (404, "not_found"))
