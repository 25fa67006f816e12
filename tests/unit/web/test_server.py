from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from tusgate.core.errors import SettingsError, StoreUnavailable
from tusgate.web.errors import finish_answers
from tusgate.web.server import WebServer, listen


@asynccontextmanager
async def serving(handler):
    app = web.Application(middlewares=[finish_answers])
    app.router.add_route("*", "/", handler)
    server = WebServer(app, listen("127.0.0.1", 0))
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def exchange(server, request: bytes) -> bytes:
    down, up = await asyncio.open_connection("127.0.0.1", server.port)
    up.write(request)
    try:
        return await down.read()
    finally:
        up.close()
        await up.wait_closed()


def asking(method="GET", path="/", *lines):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""]).encode()


async def broken(request):
    raise ValueError("a secret that nobody should see")


async def unavailable(request):
    raise StoreUnavailable


async def fine(request):
    return web.Response(text="fine")


async def test_an_unknown_exception_is_500_and_tells_nothing_but_the_request_id():
    async with serving(broken) as server:
        reply = await exchange(server, asking("GET", "/", "X-Request-ID: my-request-1"))
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500")
    assert b"X-Request-ID: my-request-1" in head
    assert b"X-Content-Type-Options: nosniff" in head
    assert body == b"internal: request my-request-1\n"


async def test_an_unknown_exception_on_head_has_no_body():
    async with serving(broken) as server:
        reply = await exchange(server, asking("HEAD"))
    assert reply.startswith(b"HTTP/1.1 500")
    assert reply.endswith(b"\r\n\r\n")


async def test_our_errors_are_rendered_outside_of_the_protocols_too():
    async with serving(unavailable) as server:
        reply = await exchange(server, asking())
    assert reply.startswith(b"HTTP/1.1 503")
    assert b"\r\nRetry-After: " in reply
    assert reply.endswith(b"store_unavailable: The object store cannot be reached; try again.\n")


async def test_routing_errors_are_rendered_like_all_others():
    async with serving(fine) as server:
        reply = await exchange(server, asking("GET", "/nope"))
    assert reply.startswith(b"HTTP/1.1 404")
    assert reply.endswith(b"not_found: Not Found\n")


async def test_noise_on_the_port_is_refused_without_a_traceback_in_the_log(caplog):
    async with serving(fine) as server:
        assert (await exchange(server, b"\x16\x03\x01 not http\r\n\r\n")).startswith(b"HTTP/1.0 400")
    assert not caplog.records


async def test_a_server_that_stopped_accepting_still_serves_open_connections():
    async with serving(fine) as server:
        port = server.port
        down, up = await asyncio.open_connection("127.0.0.1", port)
        up.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await down.readuntil(b"fine")
        await server.stop_accepting()
        await server.stop_accepting()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        up.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await down.readuntil(b"fine")
        up.close()
        await up.wait_closed()


async def test_close_ends_idle_connections_at_once():
    async with serving(fine) as server:
        down, up = await asyncio.open_connection("127.0.0.1", server.port)
        up.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await down.readuntil(b"fine")
        async with asyncio.timeout(1):
            await server.close()
            assert await down.read() == b""
        up.close()
        await up.wait_closed()


def test_a_taken_port_is_a_settings_error_that_names_it():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port}"):
            listen("127.0.0.1", port)


def test_a_host_that_is_not_ours_is_a_settings_error():
    with pytest.raises(SettingsError, match=r"203\.0\.113\.9"):
        listen("203.0.113.9", 0)


def test_processes_may_share_a_port():
    with (
        listen("127.0.0.1", 0, shared=True) as first,
        listen("127.0.0.1", first.getsockname()[1], shared=True) as second,
    ):
        assert second.getsockname() == first.getsockname()


def test_an_ipv6_wildcard_takes_ipv4_too():
    if not socket.has_dualstack_ipv6():
        pytest.skip("no dual-stack IPv6 here")
    with listen("::", 0) as listener:
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])).close()


@pytest.mark.parametrize(
    ("flags", "environment", "reason"),
    [(["-O"], {}, "python -O"), ([], {"AIOHTTP_NO_EXTENSIONS": "1"}, "without its C parser")],
)
def test_an_unsafe_interpreter_is_refused(flags, environment, reason):
    program = "from tusgate.web.server import check_interpreter; check_interpreter()"
    ran = subprocess.run(
        [sys.executable, *flags, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert reason in ran.stderr
