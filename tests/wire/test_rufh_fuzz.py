"""Anything at all in the fields of RUFH: no 500, nothing made by what is refused, no byte that was not sent."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.rufh import RufhClient

FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

NAMES = (
    "Upload-Draft-Interop-Version",
    "Upload-Complete",
    "Upload-Incomplete",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Limit",
    "Upload-Metadata",
    "Content-Type",
    "Content-Encoding",
    "Content-Disposition",
    "Content-Range",
    "Content-Digest",
    "Repr-Digest",
    "X-HTTP-Method-Override",
    "Expect",
    "Origin",
    "Host",
)
LIKELY = (
    "",
    "?0",
    "?1",
    "?1;a=b",
    "?2",
    "0",
    "5",
    "11",
    "-1",
    "5.0",
    "999999999999999",
    "1000000000000000",
    "3",
    "6",
    "9",
    "%\x80",
    "sha-256=:uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=:",
    "sha-256=(1 2);x",
    "sha-256",
    "a=:AA==:, a=?1",
    "@1659578233",
    '%"f%c3%bc"',
    "application/partial-upload",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "gzip",
    "inline; filename*=UTF-8''%ff%00; filename=\"\\\"",
    "inline; filename*0*=x''a; filename*1=b",
    "PATCH",
    "HEAD",
    "100-continue",
    "https://page.test",
    "bytes 0-4/5",
)
TEXT = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=60).map(str.strip)
VALUES = st.one_of(st.sampled_from(LIKELY), TEXT)
METHODS = st.sampled_from(["POST", "PUT", "HEAD", "GET", "PATCH", "DELETE", "OPTIONS"])
TARGETS = st.sampled_from(
    ["/files", "/files/", "upload", "/files/unknown-upload-0123456789", "/files/%00", "/files/%ff%2e%2e", "/files/a/b"]
)


@FUZZ
@given(
    method=METHODS,
    target=TARGETS,
    fields=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6),
    valid=st.booleans(),
    body=st.sampled_from([None, b"", b"hello", b"hello world"]),
)
async def test_no_header_field_breaks_the_server(rig, method, target, fields, valid, body):
    rufh = RufhClient(rig.client, 6)
    existing = (await rufh.create(b"start")).upload_path
    before = await rig.count()
    sent = (rufh.draft.append(5, ends=True) if valid else {}) | fields
    if body is not None:
        sent["Content-Length"] = str(len(body))
    async with rig.client.connect() as connection:
        connection.send_head(method, existing if target == "upload" else target, sent)
        connection.up.write(body or b"")
        answer = await connection.answer(to_head=method == "HEAD")
    assert answer.status < 500
    created = answer.status == 201 and not answer.headers["Location"].endswith(existing)
    assert await rig.count() <= before + created
    row = await rig.row(existing)
    assert row.offset in (5, 5 + len(body or b""))
    if row.state == "complete":
        assert await rig.stored(existing) == (b"start" + (body or b""))[: row.length]
