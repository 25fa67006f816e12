"""What a tenant is refused, and how it is told. Every refusal leaves nothing behind."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json

import pytest

from tests.processing import GATED
from tests.wire.client import CT
from tests.wire.rig import MIB, PART_SIZE
from tests.wire.rufh import RufhClient
from tests.wire.test_files_api import ask
from tusgate.core.access import USER, Principal
from tusgate.core.model import Keeping, Scope, State, UploadId
from tusgate.core.quota import Quota, Usage
from tusgate.core.tenant import Tenant
from tusgate.filesystem import DirectoryStore
from tusgate.ports import ObjectStore
from tusgate.service.digests import Digester
from tusgate.service.stores import Stores
from tusgate.service.tenants import Tenants
from tusgate.web.config import WebConfig

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100)
PROGRAM = b"MZ\x90\0\3\0\0\0\4\0\0\0\xff\xff" + bytes(100)


async def put(rig, fields, data=b"\x1f\x8b...", name="a.txt"):
    said = {"Content-Type": "text/plain", **of("acme"), **fields}
    async with rig.client.connect() as connection:
        connection.send_head("PUT", f"/files/{name}", {**said, "Content-Length": str(len(data))})
        connection.up.write(data)
        return await connection.answer()


class Believing:
    """Believes the client about its tenant."""

    async def identify(self, presented):
        tenant = presented.bearer or "acme"
        return Principal(scope=Scope(tenant, "alice"), permissions=USER)

    async def reaffirm(self, principal):
        """Nothing was proved, so nothing can be revoked."""

    async def close(self):
        """There is nothing to release."""


def believing(_database):
    return Believing()


def of(tenant):
    return {"Authorization": f"Bearer {tenant}"}


@pytest.fixture
def gateway(start):
    """Start a gateway for a tenant with the limits of the test."""

    async def begin(**limits):
        tenants = Tenants([Tenant(name="acme", **limits), Tenant(name="other")])
        return await start(tenants=tenants, identity=believing)

    return begin


def filetype(name):
    return {"Upload-Metadata": "filetype " + base64.b64encode(name.encode()).decode()}


async def post(rig, length=5, **fields):
    return await rig.client.post({"Upload-Length": str(length), **fields})


async def post_bytes(rig, data, **fields):
    return await rig.client.post({**CT, "Upload-Length": str(len(data)), **fields}, data)


async def row(rig, path):
    return await rig.database.get(Scope("acme", "alice"), UploadId(path.rsplit("/", 1)[1]))


def code_of(answer):
    return answer.status, answer.body.decode().partition(":")[0]


async def test_a_tenant_that_is_not_declared_is_refused(gateway):
    rig = await gateway()
    assert code_of(await post(rig, **of("nobody"))) == (403, "tenant_unknown")
    assert await rig.count() == 0


async def test_without_a_tenants_file_every_tenant_is_welcome(start):
    rig = await start(identity=believing)
    assert (await post(rig)).status == 201


async def test_a_tenant_that_is_not_declared_may_be_treated_like_the_default_one(start):
    tenants = Tenants([Tenant()], others=Tenant(quota=Quota(files=1)))
    rig = await start(tenants=tenants, identity=believing)
    assert (await post(rig)).status == 201
    assert code_of(await post(rig)) == (413, "quota_exceeded")
    assert (await post(rig, **of("another"))).status == 201


async def test_a_file_larger_than_the_tenants_largest_is_413(gateway):
    rig = await gateway(max_size=10)
    assert (await post(rig, 10)).status == 201
    assert code_of(await post(rig, 11)) == (413, "too_large")


async def test_a_body_that_passes_the_tenants_largest_is_413(gateway):
    rig = await gateway(max_size=10)
    path = (await rig.client.post({"Upload-Defer-Length": "1"})).upload_path
    assert code_of(await rig.client.patch(path, 0, bytes(11), chunked=True)) == (413, "too_large")


async def test_a_quota_of_bytes_counts_what_is_declared(gateway):
    rig = await gateway(quota=Quota(bytes=100))
    assert (await post(rig, 60)).status == 201
    assert code_of(await post(rig, 60)) == (413, "quota_exceeded")
    assert (await post(rig, 60, **of("other"))).status == 201
    assert await rig.database.usage("acme") == Usage(60, 1, 1)


async def test_what_is_deleted_makes_room(gateway):
    rig = await gateway(quota=Quota(files=1))
    path = (await post(rig)).upload_path
    assert code_of(await post(rig)) == (413, "quota_exceeded")
    assert (await rig.client.delete(path)).status == 204
    assert (await post(rig)).status == 201


async def test_of_many_creations_at_once_none_passes_the_quota(gateway):
    """CC-08."""
    rig = await gateway(quota=Quota(bytes=100))
    answers = await asyncio.gather(*(post(rig, 40) for _ in range(50)))
    assert sorted(answer.status for answer in answers) == [201] * 2 + [413] * 48
    assert await rig.database.usage("acme") == Usage(80, 2, 2)


async def test_a_deferred_length_meets_the_quota_as_it_grows(gateway):
    rig = await gateway(quota=Quota(bytes=100))
    path = (await rig.client.post({"Upload-Defer-Length": "1"})).upload_path
    assert (await rig.client.patch(path, 0, bytes(100))).status == 204
    assert code_of(await rig.client.patch(path, 100, b"x")) == (413, "quota_exceeded")
    assert (await rig.client.head(path)).headers["Upload-Offset"] == "100"


async def test_a_limit_that_was_cut_on_the_way_holds_at_the_finish(gateway):
    """AT-05: the upload was within it when it was created; nothing of it becomes an object."""
    rig = await gateway(max_size=10)
    path = (await post(rig, 10)).upload_path
    assert (await rig.client.patch(path, 0, b"12345")).status == 204
    narrower = await gateway(max_size=9)
    assert code_of(await narrower.client.patch(path, 5, b"67890")) == (413, "too_large")
    assert (await narrower.client.head(path)).headers["Upload-Offset"] == "5"
    assert await narrower.objects() == []


async def test_unfinished_uploads_have_a_limit_of_their_own(gateway):
    """RE-05."""
    rig = await gateway(quota=Quota(unfinished=1))
    path = (await post(rig, 5)).upload_path
    refused = await post(rig, 5)
    assert code_of(refused) == (429, "too_many_uploads")
    assert int(refused.headers["Retry-After"]) > 0
    assert (await rig.client.patch(path, 0, b"12345")).status == 204
    assert (await post(rig, 5)).status == 201


async def test_limits_that_are_no_longer_said_no_longer_hold(gateway, start):
    limited = await gateway(quota=Quota(files=0))
    assert (await post(limited)).status == 413
    for tenants in (Tenants([Tenant(name="acme")]), Tenants()):
        await limited.database.limit_usage("acme", Quota(files=0))
        await tenants.prepare_all(limited.database)
        rig = await start(tenants=tenants, identity=believing)
        assert (await post(rig)).status == 201


class TestTypes:
    async def test_a_type_that_is_not_on_the_list_is_415(self, gateway):
        rig = await gateway(types=("image/*", "application/pdf"))
        assert (await post(rig, **filetype("image/png"))).status == 201
        assert (await post(rig, **filetype("Application/PDF; x=y"))).status == 201
        assert code_of(await post(rig, **filetype("text/html"))) == (415, "type_not_allowed")
        assert code_of(await post(rig)) == (415, "type_not_allowed")

    async def test_content_of_another_type_is_415_and_never_an_object(self, gateway):
        rig = await gateway(types=("image/*",), checks_content=True)
        refused = await post_bytes(rig, PROGRAM, **filetype("image/png"))
        assert code_of(refused) == (415, "content_mismatch")
        assert await rig.objects() == []

    async def test_the_upload_has_failed_then_and_says_why(self, gateway):
        rig = await gateway(checks_content=True)
        path = (await post(rig, len(PROGRAM), **filetype("image/png"))).upload_path
        assert code_of(await rig.client.patch(path, 0, PROGRAM)) == (415, "content_mismatch")
        failed = await row(rig, path)
        assert failed.state is State.FAILED
        assert "image/png" in failed.reason
        assert (await rig.client.head(path)).status == 410
        assert await rig.database.usage("acme") == Usage()

    @pytest.mark.parametrize("coding", ["gzip", "x-gzip", "br", "anything"])
    async def test_no_file_comes_compressed_whose_content_is_looked_at(self, gateway, coding):
        """What a reader's client makes of such bytes nobody has seen."""
        rig = await gateway(checks_content=True)
        refused = await put(rig, {"Content-Type": "image/png", "Content-Encoding": coding}, PNG)
        assert code_of(refused) == (415, "unsupported_media_type")
        assert await rig.objects() == []
        assert (await put(rig, {"Content-Type": "image/png", "Content-Encoding": "identity"}, PNG)).status == 201

    async def test_content_of_the_declared_type_is_stored(self, gateway):
        rig = await gateway(types=("image/*",), checks_content=True)
        answer = await post_bytes(rig, PNG, **filetype("image/png"))
        assert answer.status == 201
        assert (await row(rig, answer.upload_path)).state is State.COMPLETE

    async def test_content_may_speak_for_a_file_without_a_type(self, gateway):
        rig = await gateway(types=("image/*",), checks_content=True)
        assert (await post_bytes(rig, PNG)).status == 201
        assert code_of(await post_bytes(rig, PROGRAM)) == (415, "content_mismatch")

    async def test_content_is_looked_at_though_its_first_bytes_came_in_pieces(self, gateway):
        rig = await gateway(checks_content=True)
        path = (await post(rig, len(PROGRAM), **filetype("image/png"))).upload_path
        assert (await rig.client.patch(path, 0, PROGRAM[:3])).status == 204
        assert (await rig.client.patch(path, 3, PROGRAM[3:7])).status == 204
        assert code_of(await rig.client.patch(path, 7, PROGRAM[7:])) == (415, "content_mismatch")

    async def test_content_of_a_large_file_is_looked_at_at_its_first_part(self, gateway):
        rig = await gateway(checks_content=True)
        data = PROGRAM + bytes(PART_SIZE + MIB)
        path = (await post(rig, len(data), **filetype("image/png"))).upload_path
        assert code_of(await rig.client.patch(path, 0, data)) == (415, "content_mismatch")
        assert (await row(rig, path)).state is State.FAILED

    async def test_content_of_a_concatenation_is_looked_at(self, gateway):
        rig = await gateway(types=("image/*",), checks_content=True)
        partials = [
            await post_bytes(rig, data, **{"Upload-Concat": "partial"}) for data in (PROGRAM[:20], PROGRAM[20:])
        ]
        assert [each.status for each in partials] == [201, 201]
        concat = "final;" + " ".join(each.upload_path for each in partials)
        answer = await rig.client.post({"Upload-Concat": concat, **filetype("image/png")})
        assert answer.status == 410
        assert b"content" in answer.body


class TestRates:
    async def test_creations_above_the_rate_are_429_and_wait_for_their_turn(self, gateway):
        rig = await gateway(request_rate=0.01)
        assert (await post(rig)).status == 201
        refused = await post(rig)
        assert code_of(refused) == (429, "too_many_requests")
        assert "Retry-After" in refused.headers
        assert (await post(rig, **of("other"))).status == 201

    async def test_no_client_gives_its_upload_up_because_of_the_rate(self, gateway):
        """tus-js-client forgets an upload after a HEAD with any other status, and ends after other 4xx to a PATCH."""
        rig = await gateway(request_rate=0.01)
        path = (await post(rig)).upload_path
        assert (await rig.client.head(path)).status == 423
        assert code_of(await rig.client.patch(path, 0, b"12345")) == (503, "throttled")
        assert (await row(rig, path)).offset == 0

    async def test_bandwidth_refuses_nothing(self, gateway):
        rig = await gateway(bandwidth=8 * MIB)
        answers = await asyncio.gather(*(post_bytes(rig, bytes(MIB)) for _ in range(4)))
        assert [answer.status for answer in answers] == [201] * 4


async def test_an_upload_goes_on_where_it_began_though_its_tenant_has_another_route_now(tmp_path, start):
    """What changes in the file changes where new uploads go."""
    stores = {name: DirectoryStore(tmp_path / name) for name in ("one", "two")}
    first = await start(tenants=Tenants([Tenant(name="acme", route="one")]), identity=believing, others=stores)
    path = (await post(first, 10)).upload_path
    assert (await first.client.patch(path, 0, b"01234")).status == 204

    second = await start(tenants=Tenants([Tenant(name="acme", route="two")]), identity=believing, others=stores)
    assert (await second.client.patch(path, 5, b"56789")).status == 204
    finished = await row(second, path)
    assert b"".join([chunk async for chunk in stores["one"].read(finished.object_key)]) == b"0123456789"
    assert (await post_bytes(second, b"new")).status == 201
    assert [found.size async for found in stores["two"].list_objects()] == [3]


async def test_an_upload_whose_route_is_gone_is_out_of_reach_and_not_lost(tmp_path, start):
    stores = {"one": DirectoryStore(tmp_path / "one")}
    first = await start(tenants=Tenants([Tenant(name="acme", route="one")]), identity=believing, others=stores)
    path = (await post(first, 10)).upload_path
    second = await start(tenants=Tenants([Tenant(name="acme")]), identity=believing)
    assert (await second.client.patch(path, 0, b"0123456789")).status == 503
    assert (await second.client.head(path)).headers["Upload-Offset"] == "0"
    assert (await first.client.patch(path, 0, b"0123456789")).status == 204


async def test_a_tenant_is_told_what_it_has_and_may_have(gateway):
    rig = await gateway(quota=Quota(bytes=100, unfinished=3))
    path = (await post(rig, 60)).upload_path
    await post(rig, 10, **of("other"))
    assert (await rig.client.patch(path, 0, bytes(60))).status == 204
    await post(rig, 5)
    answer = await rig.client.request("GET", "/api/v1/usage")
    assert (answer.status, json.loads(answer.body)) == (
        200,
        {
            "tenant": "acme",
            "bytes": {"used": 65, "limit": 100},
            "files": {"used": 2, "limit": None},
            "unfinished": {"used": 1, "limit": 3},
        },
    )


async def test_a_file_cannot_be_described_as_of_a_type_that_the_tenant_does_not_take(gateway):
    rig = await gateway(types=("image/*",))
    path = (await post_bytes(rig, b"12345", **filetype("image/png"))).upload_path
    file = f"/api/v1/files/{path.rpartition('/')[2]}"
    for wanted, status in (("image/gif", 200), ("text/html", 415)):
        change = json.dumps({"content_type": wanted}).encode()
        assert (await rig.client.request("PATCH", file, {"Content-Type": "application/json"}, change)).status == status
    assert (await row(rig, path)).content_type == "image/gif"


async def test_requests_of_the_api_count_one_by_one_however_many_files_they_are_about(gateway):
    rig = await gateway(request_rate=0.01)
    deletion = json.dumps({"ids": ["A" * 24, "B" * 24, "C" * 24]}).encode()
    sent = "POST", "/api/v1/files/delete", {"Content-Type": "application/json"}, deletion
    assert (await rig.client.request(*sent)).status == 200
    assert (await rig.client.request(*sent)).status == 503


WITH_LINKS = WebConfig(share_keys=("k" * 32,))


async def shared_by_acme(rig):
    """Have a file and a link to it; return the addresses of both."""
    path = (await post_bytes(rig, b"12345")).upload_path
    file = f"/api/v1/files/{path.rpartition('/')[2]}"
    made = await rig.client.request("POST", f"{file}/shares", {"Content-Type": "application/json"}, b"{}")
    assert made.status == 201, made
    return file, "/" + json.loads(made.body)["url"].split("/", 3)[3]


async def test_a_link_leads_to_the_store_of_its_tenant_and_ends_with_it(tmp_path, start):
    """A tenant that is not declared any more is answered as a link that never was."""
    stores = {"one": DirectoryStore(tmp_path / "one")}
    settings = {"identity": believing, "others": stores}
    rig = await start(WITH_LINKS, tenants=Tenants([Tenant(name="acme", route="one")]), **settings)
    _, link = await shared_by_acme(rig)
    assert (await rig.client.request("GET", link)).body == b"12345"
    without = await start(WITH_LINKS, tenants=Tenants([Tenant(name="other")]), **settings)
    gone, never = [await without.client.request("GET", each) for each in (link, link[:-3] + "AAA")]
    assert (gone.status, gone.body) == (never.status, never.body)
    assert gone.status == 404


async def test_whoever_reads_by_a_link_asks_in_the_name_of_its_tenant(start):
    rig = await start(WITH_LINKS, tenants=Tenants([Tenant(name="acme")]), identity=believing)
    _, link = await shared_by_acme(rig)
    slow = await start(WITH_LINKS, tenants=Tenants([Tenant(name="acme", request_rate=0.01)]), identity=believing)
    assert (await slow.client.request("GET", link)).status == 200
    assert code_of(await slow.client.request("GET", link)) == (503, "throttled")


@pytest.mark.parametrize(
    ("method", "below"), [("GET", "shares"), ("GET", "accesses"), ("DELETE", "shares/" + "A" * 24)]
)
async def test_questions_about_links_and_readers_count_as_all_others(start, method, below):
    rig = await start(WITH_LINKS, tenants=Tenants([Tenant(name="acme")]), identity=believing)
    file, _ = await shared_by_acme(rig)
    slow = await start(WITH_LINKS, tenants=Tenants([Tenant(name="acme", request_rate=0.01)]), identity=believing)
    assert (await slow.client.request(method, f"{file}/{below}")).status in {200, 404}
    refused = await slow.client.request(method, f"{file}/{below}")
    assert (refused.status, json.loads(refused.body)["code"]) == (503, "throttled")


async def test_a_file_is_digested_where_its_tenant_has_it(tmp_path, start):
    stores = {"one": DirectoryStore(tmp_path / "one")}
    tenants = Tenants([Tenant(name="acme", route="one")])
    rig = await start(tenants=tenants, identity=believing, others=stores, keeping=Keeping(digests=True))
    path = (await post_bytes(rig, b"12345")).upload_path
    assert await Digester(rig.database, Stores[ObjectStore](rig.store, stores)).run() == 1
    assert (await row(rig, path)).sha256 == hashlib.sha256(b"12345").digest()


class TestCodings:
    async def test_only_files_of_the_listed_types_come_compressed(self, gateway):
        rig = await gateway(coded_types=("text/*", "application/json"))
        for media_type, status in (
            ("text/plain", 201),
            ("text/csv; charset=utf-8", 201),
            ("application/json", 201),
            ("image/png", 415),
            ("", 415),
        ):
            fields = {"Content-Type": media_type, "Content-Encoding": "gzip"}
            assert (await put(rig, fields)).status == status, media_type
        assert (await put(rig, {"Content-Type": "image/png"}, PNG)).status == 201

    async def test_no_compressed_file_becomes_one_of_another_type(self, gateway):
        """Neither on its way nor when it is there."""
        rig = await gateway(coded_types=("text/*",))
        rufh = RufhClient(rig.client, None)
        coded = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
        begun = await rufh.request(
            "POST", "/files/", {**rufh.draft.creation(ends=False, length=5), **coded}, b"\x1f\x8b"
        )
        path = begun.upload_path
        file = f"/api/v1/files/{path.rpartition('/')[2]}"
        for end in (False, True):
            if end:
                assert (await rufh.request("PATCH", path, rufh.draft.append(2, ends=True), b"...")).status == 201
            for media_type, status in (("image/png", 415), (None, 415), ("text/csv", 200)):
                assert (await ask(rig.client, "PATCH", file, {"content_type": media_type}))[0] == status

    async def test_a_tenant_may_take_none_at_all(self, gateway):
        rig = await gateway(coded_types=())
        refused = await put(rig, {"Content-Encoding": "gzip"})
        assert code_of(refused) == (415, "unsupported_media_type")
        assert (await put(rig, {"Content-Encoding": "gzip", **of("other")})).status == 201

    async def test_no_file_comes_compressed_that_somebody_has_to_look_at_before_it_is_read(self, start):
        """A scanner that does not know the coding would find nothing in it; the reader's browser undoes it."""
        rig = await start(keeping=Keeping(processing=GATED), identity=believing)
        for coding in ("br", "gzip"):
            assert code_of(await put(rig, {"Content-Encoding": coding})) == (415, "unsupported_media_type")
        assert (await put(rig, {})).status == 201
