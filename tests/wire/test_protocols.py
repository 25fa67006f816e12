"""One upload, several protocols: who answers, what each of them sees, and who may write."""

from __future__ import annotations

import pytest

from tests.wire.client import CT, V
from tests.wire.rufh import IDENTIFIED, VERSIONS, RufhClient, problem
from tusgate.core.model import CreatedVia, State

HELLO = b"hello world"
FLAG = {"Upload-Complete": "?0"}


@pytest.fixture(params=VERSIONS, ids=lambda version: f"interop-{version}")
def rufh(rig, request):
    return RufhClient(rig.client, request.param)


@pytest.fixture
def final(rig):
    return RufhClient(rig.client, None)


@pytest.fixture(params=IDENTIFIED, ids=lambda version: f"interop-{version}")
def identified(rig, request):
    """A client whose every request says that it is RUFH; in the final form a HEAD or DELETE says nothing."""
    return RufhClient(rig.client, request.param)


@pytest.mark.spec("SH-01", "SH-02")
@pytest.mark.parametrize("length", [None, 11])
async def test_an_unfinished_upload_of_rufh_never_looks_finished_to_tus(rig, rufh, length):
    path = (await rufh.create(HELLO, length=length)).upload_path
    seen = await rig.client.head(path)
    assert (seen.status, seen.offset, seen.headers["Upload-Defer-Length"]) == (200, 11, "1")
    assert "Upload-Length" not in seen.headers
    await rufh.append(path, 11, ends=True)
    seen = await rig.client.head(path)
    assert (seen.status, seen.offset, seen.headers["Upload-Length"]) == (200, 11, "11")
    assert "Upload-Defer-Length" not in seen.headers


@pytest.mark.spec("SH-02", "SH-03", "SH-05")
async def test_an_upload_of_tus_is_seen_and_cancelled_by_rufh_but_not_written(rig, identified):
    path = await rig.client.create(20)
    await rig.client.patch(path, 0, HELLO)
    epoch = (await rig.row(path)).epoch
    seen = await identified.head(path)
    assert (seen.status, seen.offset, seen.headers["Upload-Length"]) == (204, 11, "20")
    assert not identified.draft.says_complete(seen)
    refused = await identified.append(path, 11, b"123456789", ends=True)
    assert (refused.status, problem(refused)["code"]) == (400, "wrong_protocol")
    row = await rig.row(path)
    assert (row.offset, row.epoch) == (11, epoch)  # its own writer was not disturbed
    assert (await rig.client.patch(path, 11, b"123456789")).status == 204
    seen = await identified.head(path)
    assert identified.draft.says_complete(seen)
    assert (await identified.delete(path)).status == 204
    assert (await rig.client.head(path)).status == 410


@pytest.mark.spec("SH-02")
async def test_an_upload_of_rufh_is_seen_and_terminated_by_tus_but_not_written(rig, rufh):
    path = (await rufh.create(HELLO)).upload_path
    refused = await rig.client.patch(path, 11, HELLO)
    assert refused.status == 400
    assert refused.body.startswith(b"wrong_protocol")
    assert (await rig.row(path)).offset == 11
    assert (await rig.client.delete(path)).status == 204
    assert (await rufh.head(path)).status == 404


@pytest.mark.spec("SH-02")
async def test_a_writer_of_tus_goes_on_while_rufh_looks(rig, identified):
    path = await rig.client.create(22)
    async with rig.client.connect() as connection:
        connection.send_head("PATCH", path, {**V, **CT, "Upload-Offset": "0", "Content-Length": "22"})
        connection.up.write(HELLO)
        await rig.until_taken_in(11)
        assert (await identified.head(path)).offset == 0
        connection.up.write(HELLO)
        assert (await connection.answer()).offset == 22


@pytest.mark.spec("SH-03", "SH-05")
@pytest.mark.parametrize(("text", "status"), [("-1", 201), ("11;a=b", 201), ("1000000000000000", 201)])
async def test_a_length_is_read_by_the_grammar_of_its_protocol(rig, final, text, status):
    assert (await final.create(Upload_Length=text)).status == status
    tus = await rig.client.post({"Upload-Length": text})
    assert tus.status == (413 if text.isdigit() else 400)


@pytest.mark.spec("SH-04")
async def test_the_maximum_is_the_same_for_both(start):
    rig = await start(max_size=10)
    assert (await rig.client.post({"Upload-Length": "11"})).status == 413
    assert (await RufhClient(rig.client, None).create(length=11)).status == 413


@pytest.mark.spec("SH-04", "R-LIM-01")
async def test_both_expire_alike(rig, final):
    path = (await final.create(HELLO)).upload_path
    seen = await rig.client.head(path)
    assert "Upload-Expires" in seen.headers
    await rig.expire()
    assert (await rig.client.head(path)).status == 410
    assert (await final.head(path)).status == 404


@pytest.mark.spec("SH-09", "SH-07", "R-HEAD-01")
@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_question_that_names_no_protocol_is_answered_by_the_one_that_owns_the_upload(rig, final, method):
    ours = (await final.create(HELLO)).upload_path
    answer = await final.request(method, ours)
    assert (answer.status, answer.offset, answer.headers["Upload-Complete"]) == (204, 11, "?0")
    theirs = await rig.client.create(11)
    answer = await rig.client.request(method, theirs)
    assert answer.status == (412 if method == "HEAD" else 405)


@pytest.mark.spec("SH-09")
async def test_a_delete_that_names_no_protocol_ends_uploads_of_rufh_only(rig, final):
    ours, theirs = (await final.create(HELLO)).upload_path, await rig.client.create(11)
    assert (await final.request("DELETE", ours)).status == 204
    assert (await rig.client.request("DELETE", theirs)).status == 412
    assert (await rig.row(theirs)).state is State.UPLOADING


@pytest.mark.spec("SH-09", "R-DEL-02")
async def test_without_a_database_a_question_that_names_no_protocol_may_be_asked_again(rig, final):
    path = await final.begin()
    await rig.database.close()
    assert (await final.request("DELETE", path)).status == 503


@pytest.mark.spec("SH-05")
async def test_an_append_that_names_no_protocol_is_412(rig, final):
    path = await final.begin()
    assert (await rig.client.request("PATCH", path, {"Upload-Offset": "0"}, HELLO)).status == 412
    assert (await rig.client.request("PATCH", path, {}, HELLO)).status == 412
    assert (await rig.row(path)).offset == 0


@pytest.mark.spec("SH-05")
async def test_an_append_by_method_override_is_an_append(rig, final):
    path = await final.begin()
    fields = final.draft.append(0, ends=True) | {"X-HTTP-Method-Override": "PATCH"}
    assert (await final.request("POST", path, fields, HELLO)).status == 201
    assert (await rig.row(path)).created_via is CreatedVia.RUFH


@pytest.mark.spec("SH-05")
@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE", "PATCH"])
async def test_methods_that_the_creation_url_does_not_have_are_405(final, method):
    fields = final.draft.append(0, ends=True) if method == "PATCH" else FLAG
    answer = await final.request(method, "/files", fields)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST, PUT, OPTIONS")


@pytest.mark.spec("SH-05")
async def test_a_post_to_an_upload_is_405(final):
    path = await final.begin()
    answer = await final.request("POST", path, FLAG)
    assert (answer.status, answer.headers["Allow"]) == (405, "HEAD, GET, PATCH, DELETE, OPTIONS")


@pytest.mark.spec("COR-02", "COR-03", "Z-02")
async def test_pages_may_send_and_read_the_fields_of_rufh(rufh):
    page = {"Origin": "https://page.test"}
    asked = page | {"Access-Control-Request-Method": "PATCH"}
    preflight = await rufh.http.request("OPTIONS", "/files", asked)
    allowed = preflight.headers["Access-Control-Allow-Headers"]
    for name in ("Upload-Complete", "Upload-Incomplete", "Upload-Draft-Interop-Version", "Content-Digest"):
        assert name in allowed
    for answer in (
        await rufh.request("POST", "/files", rufh.draft.creation(ends=False) | page),
        await rufh.request("PATCH", "/files/x", rufh.draft.append(0, ends=True) | page, HELLO),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"Upload-Complete", "Upload-Incomplete", "Upload-Offset", "Upload-Limit", "Location"} <= {*exposed}
