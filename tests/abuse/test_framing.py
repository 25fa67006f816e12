"""Where requests end: frames that two readers may read differently, and odd ones that are fine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.abuse.crowd import PATIENCE, ended
from tests.abuse.smuggling import corpus, deleting
from tests.deploy.conftest import write_nginx_configuration
from tests.fault.rig import MIB, lettered
from tests.servers.process import free_port
from tests.wire.client import CT, Client, V

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.fault.rig import Rig
    from tests.servers.nginx import Nginx

CHUNKED = ("Transfer-Encoding", "chunked")
REFUSED = (b"HTTP/1.1 400 ", b"HTTP/1.0 400 ", b"HTTP/1.1 415 ", b"HTTP/1.0 505 ", b"HTTP/2.0 505 ")


async def say(client: Client, request: bytes) -> bytes:
    """Send bytes on a connection of their own; return what comes back until the server closes."""
    async with client.connect() as connection, asyncio.timeout(PATIENCE):
        connection.up.write(request)
        return await connection.rest()


def states(victim: Rig, paths: Iterable[str]) -> dict[str, str]:
    found = {row["id"]: row["state"] for row in victim.rows("SELECT id, state FROM uploads")}
    return {path: found[path.rsplit("/", 1)[1]] for path in paths}


async def test_an_ambiguous_frame_is_refused_and_what_follows_is_never_executed(victim: Rig) -> None:
    """PA-10, PA-23, I13."""
    wrong = {}
    paths = []
    for name in corpus(""):
        path = await victim.client.create(5)
        paths.append(path)
        replies = await say(victim.client, corpus(path)[name] + deleting(path))
        if not replies.startswith(REFUSED) or replies.count(b"HTTP/1.") + replies.count(b"HTTP/2.") > 2:
            wrong[name] = replies
    assert wrong == {}
    assert {*states(victim, paths).values()} == {"uploading"}
    assert {row["upload_offset"] for row in victim.rows("SELECT upload_offset FROM uploads")} == {0}
    path = await victim.client.create(5)
    assert (await say(victim.client, deleting(path))).startswith(b"HTTP/1.1 204")
    assert states(victim, [path]) == {path: "terminated"}


async def test_nothing_is_smuggled_past_nginx(victim: Rig, nginx: Nginx, tmp_path: Path) -> None:
    """PA-10: the proxy refuses every DELETE, so one that is executed was hidden from it."""
    port = free_port()
    configuration = write_nginx_configuration(tmp_path, [victim.gateway.port], port)
    shipped = configuration.read_text(encoding="utf-8")
    guarded = shipped.replace("location / {", "location / {\n if ($request_method = DELETE) { return 403; }")
    assert guarded != shipped
    configuration.write_text(guarded, encoding="utf-8")
    front = Client(port)
    unanswered = []
    paths = []
    with nginx.serving(configuration, port):
        for name in corpus(""):
            path = await victim.client.create(5)
            paths.append(path)
            if not (await say(front, corpus(path)[name] + deleting(path))).startswith(b"HTTP/1.1 "):
                unanswered.append(name)
        path = await victim.client.create(5)
        assert (await say(front, deleting(path))).startswith(b"HTTP/1.1 403")
    assert "terminated" not in states(victim, [*paths, path]).values()
    assert len(unanswered) < len(paths) // 4, unanswered
    assert (await say(victim.client, deleting(path))).startswith(b"HTTP/1.1 204")


async def test_a_body_whose_frame_breaks_keeps_what_came_before_and_runs_nothing_that_comes_after(victim: Rig) -> None:
    """PA-10, I1."""
    content = lettered("a", 3 * MIB)
    path = await victim.client.create(len(content))
    async with victim.client.connect() as connection, asyncio.timeout(PATIENCE):
        connection.send_head("PATCH", path, [*V.items(), *CT.items(), ("Upload-Offset", "0"), CHUNKED])
        connection.send_chunk(content[:MIB])
        connection.up.write(b"5 \r\nhello\r\n0\r\n\r\n" + deleting(path))
        replies = await connection.rest()
    assert b"HTTP/1.1 204" not in replies
    assert await victim.client.offset(path) == MIB
    assert (await victim.client.patch(path, MIB, content[MIB:])).status == 204
    assert await victim.stored(path) == content


async def test_extensions_and_trailers_are_ignored_where_they_are_well_formed(victim: Rig) -> None:
    """PA-10. RFC 9112, 7.1: a recipient ignores what it does not know."""
    for framed in (
        b'5;a=b;c="d"\r\nhello\r\n0;e\r\n\r\n',
        b"5;" + b"a" * 200_000 + b"\r\nhello\r\n0\r\n\r\n",
        b"0" * 5_000 + b"5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nUpload-Offset: 99\r\nTus-Resumable: 9\r\nX-HTTP-Method-Override: DELETE\r\n\r\n",
    ):
        path = await victim.client.create(5)
        async with victim.client.connect() as connection, asyncio.timeout(PATIENCE):
            connection.send_head("PATCH", path, [*V.items(), *CT.items(), ("Upload-Offset", "0"), CHUNKED])
            connection.up.write(framed)
            assert (await connection.answer()).offset == 5
        assert await victim.stored(path) == b"hello"


async def test_no_trailer_becomes_a_field_of_the_next_request(victim: Rig) -> None:
    """PA-10, I13: a proxy sends requests of several clients over one connection."""
    for method in ("PATCH", "HEAD", "OPTIONS"):
        path = await victim.client.create(5)
        async with victim.client.connect() as connection, asyncio.timeout(PATIENCE):
            connection.send_head(method, path, [*V.items(), *CT.items(), ("Upload-Offset", "0"), CHUNKED])
            connection.up.write(b"0\r\nX-Other: 1\r\nX-HTTP-Method-Override: DELETE\r\n\r\n")
            connection.send_head("HEAD", path, V)
            replies = await connection.rest()
        assert replies.count(b"HTTP/1.1 ") == 1, replies
        assert victim.row(path)["state"] == "uploading"


async def test_a_million_trailers_are_refused(victim: Rig) -> None:
    """RE-15."""
    path = await victim.client.create(5)
    async with victim.client.connect() as connection, asyncio.timeout(PATIENCE):
        connection.send_head("PATCH", path, [*V.items(), *CT.items(), ("Upload-Offset", "0"), CHUNKED])
        connection.up.write(b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 1_000_000)
        assert (await connection.answer()).status in (400, 503)
        assert await ended([connection]) == [b""]


async def test_an_offer_to_speak_another_protocol_is_ignored(victim: Rig) -> None:
    """PA-10: java.net.http offers h2c with every request; its bytes must not be taken for those of a tunnel."""
    for offer in (
        [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA")],
        [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")],
    ):
        path = await victim.client.create(10)
        async with victim.client.connect() as connection, asyncio.timeout(PATIENCE):
            for offset, half in ((0, b"hello"), (5, b"world")):
                fields = [*V.items(), *CT.items(), ("Upload-Offset", str(offset)), ("Content-Length", "5"), *offer]
                connection.send_head("PATCH", path, fields)
                connection.up.write(half)
                assert (await connection.answer()).offset == offset + 5
        assert await victim.stored(path) == b"helloworld"


async def test_what_is_not_http_learns_nothing_about_us_and_is_not_repeated(victim: Rig) -> None:
    """I19: no version of ours, and nothing of what was sent."""
    request = b"PATCH /files HTTP/1.1\r\nHost: x\r\nAuthorization: geheim\r\nX\0: geheim\r\n\r\n"
    reply = await say(victim.client, request)
    head, _, body = reply.lower().partition(b"\r\n\r\n")
    assert head.startswith(b"http/1.0 400")
    assert b"server: tusgate" in head.split(b"\r\n")
    assert b"x-content-type-options: nosniff" in head.split(b"\r\n")
    assert b"python" not in reply.lower()
    assert b"geheim" not in reply
    assert body == b"malformed_request: the request is not valid http/1.1\n"
