"""Anything at all may arrive: no 500, nothing created by what is refused, and the server lives on."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.client import CT, V, check

FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

NAMES = (
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Defer-Length",
    "Upload-Metadata",
    "Upload-Checksum",
    "Upload-Concat",
    "Content-Type",
    "Content-Encoding",
    "X-HTTP-Method-Override",
    "X-Request-ID",
    "Origin",
    "Access-Control-Request-Method",
    "Authorization",
    "Expect",
    "Trailer",
    "Forwarded",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "Host",
)
LIKELY = (
    "",
    "0",
    "5",
    "1",
    "-1",
    "1.0.0",
    "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
    "filename dGVzdA==",
    "partial",
    "final;/files/a",
    "PATCH",
    "HEAD",
    "DELETE",
    "OPTIONS",
    "100-continue",
    "gzip",
    "application/offset+octet-stream",
    "https://page.test",
    "9223372036854775807",
    "9223372036854775808",
)
TEXT = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=60).map(str.strip)
VALUES = st.one_of(st.sampled_from(LIKELY), TEXT)
METHODS = st.sampled_from(["POST", "HEAD", "PATCH", "DELETE", "OPTIONS", "GET", "PUT"])
TARGETS = st.sampled_from(
    ["/files", "/files/", "upload", "/files/unknown-upload-0123456789", "/files/%00", "/files/a/b"]
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
    client = rig.client
    existing = await client.create(5)
    before = await rig.count()
    path = existing if target == "upload" else target
    base = {**V, **CT, "Upload-Offset": "0", "Upload-Length": "5"} if valid else dict(V)
    sent = base | fields
    if body is not None:
        sent["Content-Length"] = str(len(body))
    async with client.connect() as connection:
        connection.send_head(method, path, sent)
        connection.up.write(body or b"")
        answer = await connection.answer(to_head=method == "HEAD")
    assert answer.status < 500
    if "Tus-Resumable" in answer.headers:
        check(method, path, answer)
    if answer.status == 201:
        assert await rig.count() == before + 1
    elif answer.status >= 400:
        assert await rig.count() == before


@FUZZ
@given(
    start=st.one_of(
        st.binary(max_size=60),
        st.builds(
            lambda method, target, version: method + b" " + target + b" " + version,
            st.sampled_from([b"POST", b"PATCH", b"HEAD", b"", b"post", b"CONNECT", b"PRI", b"M-SEARCH", b"\xff"]),
            st.one_of(
                st.sampled_from([b"/files", b"*", b"//", b"/files/%zz", b"http://[", b"/files?a#b"]),
                st.binary(max_size=30),
            ),
            st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b"HTTP/", b""]),
        ),
    ),
    rest=st.sampled_from([b"\r\nHost: x\r\n\r\n", b"\n\n", b"\r\n\r\n", b"\r\nHost: x\r\nHost: y\r\n\r\n", b""]),
)
async def test_no_request_line_breaks_the_server(rig, start, rest):
    async with rig.client.connect() as connection:
        connection.up.write(start + rest)
        connection.up.write_eof()
        async with asyncio.timeout(10):
            reply = await connection.rest()
    assert not reply.startswith((b"HTTP/1.1 500", b"HTTP/1.0 500"))
    assert await rig.count() == 0
    assert (await rig.client.request("OPTIONS", "/files")).status == 200
