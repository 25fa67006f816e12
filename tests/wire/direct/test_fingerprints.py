"""Files that are found again by what their clients tell them by: by tus, directly, and by whoever asks."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from awscrt.checksums import crc64nvme

from tests.wire.direct import DirectClient
from tests.wire.direct.test_s3_events import completed_past_the_gateway
from tests.wire.identity import ALICE, BOB, EVE, guarded, upload_token
from tests.wire.rig import PART_SIZE, running
from tests.wire.rufh import RufhClient
from tests.wire.test_dedup import ON, all_digested
from tusgate.core.dedup import NO_DEDUP
from tusgate.core.model import Keeping, State
from tusgate.ports import SurveyedStore
from tusgate.service.reconcile import Mending, Reconciler, Trouble
from tusgate.service.stores import Stores

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


async def test_nobody_says_which_parts_are_missing_of_a_file_that_only_its_client_knows(rig, client):
    upload_id, _ = await client.begin(None, fingerprint=OWN)
    answer = await found(client, *OWN.split(":"))
    assert (answer["file"]["id"], answer["is_finished"], answer["missing_parts"]) == (upload_id, False, None)


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


@pytest.mark.parametrize("keeping", [Keeping(digests=True), Keeping(dedup=ON)], ids=["digests", "dedup"])
async def test_a_finished_file_is_found_by_the_sha256_that_the_gateway_has_computed(tmp_path, http, keeping):
    """Whatever its client said of it, or did not say, and whether it shares its object or not."""
    async with running(tmp_path, keeping=keeping) as rig:
        client, files = DirectClient(rig.client, http), []
        for lie in ("sha256:" + "1" * 64, "client:nothing of its bytes"):
            files.append(await rig.client.create(len(DATA), **metadata(lie)))
            await rig.client.patch(files[-1], 0, DATA)
            rig.clock.now += 1
        assert await found(client, "sha256", SHA256) is None
        await all_digested(rig, ON if keeping.dedup is ON else NO_DEDUP)
        for path in reversed(files):
            answer = await found(client, "sha256", SHA256.upper())
            assert (answer["file"]["id"], answer["is_finished"]) == (path.rpartition("/")[2], True)
            assert answer["missing_parts"] is None
            assert (await rig.client.delete(path)).status == 204
        assert await found(client, "sha256", SHA256) is None


async def test_an_upload_that_the_store_has_thrown_away_is_neither_found_nor_given_again(rig, client):
    """It can never be completed: who asks for it by its fingerprint gets none, or a new one."""
    for ask in ("find", "begin"):
        upload_id, _ = await client.begin(2 * PART_SIZE, fingerprint=OWN)
        row = await rig.row(f"/{upload_id}")
        await rig.store.abort_multipart(row.object_key, row.multipart_id)
        if ask == "find":
            assert await found(client, *OWN.split(":")) is None
        else:
            status, begun = await client.ask("POST", "", {"size": 2 * PART_SIZE, "fingerprint": OWN})
            assert (status, begun["upload"]["id"] != upload_id, len(begun["parts"]["urls"])) == (201, True, 2)
        assert (await rig.row(f"/{upload_id}")).state is State.FAILED


@pytest.mark.parametrize(("sent", "state"), [(DATA, State.COMPLETE), (bytes(len(DATA)), State.FAILED)])
async def test_a_declared_digest_is_not_believed_because_an_end_is_recorded_later(rig, client, sent, state):
    """GC-11, I3: a backup was restored in which the upload is unfinished, while its object is there."""
    whole = {"algorithm": "sha256", "value": base64.b64encode(bytes.fromhex(SHA256)).decode()}
    upload_id, urls = await client.begin(len(DATA), checksum=whole)
    etags = await client.send(urls, sent)
    await completed_past_the_gateway(rig, upload_id, urls, etags)
    reconciler = Reconciler(
        database=rig.database,
        stores=Stores[SurveyedStore](rig.store),
        mending=Mending(repair=True),
        now=datetime.fromtimestamp(rig.clock.now, UTC) + timedelta(days=9),
    )
    assert [(finding.trouble, finding.mended) async for finding in reconciler.run()] == [(Trouble.NOT_RECORDED, True)]
    await client.complete(upload_id)
    assert (await rig.row(f"/{upload_id}")).state is state
    assert (await found(client, "sha256", SHA256) is None) is (state is State.FAILED)


async def test_an_unfinished_upload_of_rufh_is_found_by_its_fingerprint(rig, client):
    rufh = RufhClient(rig.client, 6)
    said = {"Upload-Metadata": metadata(OWN)["Upload_Metadata"]}
    created = await rufh.request("POST", "/files/", {**rufh.draft.creation(ends=False, length=10), **said}, b"12345")
    assert created.status == 201
    answer = await found(client, *OWN.split(":"))
    assert (answer["file"]["created_via"], answer["file"]["offset"], answer["is_finished"]) == ("rufh", 5, False)


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
