"""What requests say and carry: bombs, strings that are hard to read, ids that are none, and a log that is full."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING

import pytest

from tests.abuse.crowd import PATIENCE
from tests.abuse.vitals import memory_of, most_memory_of, processor_seconds_of
from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.honest import begin
from tests.fault.rig import KIB, MIB, PART, lettered
from tests.gateway import Gateway
from tests.wire.client import CT, Client, V

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.fault.rig import Rig

    StartVictim = Callable[..., Awaitable[Rig]]

CODINGS = ("gzip", "deflate", "br", "zstd", "gzip, identity", "x-gzip", "GZIP")


class SpeechlessGateway(Gateway):
    """A gateway whose log is on a disk that is full."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.log_path.symlink_to("/dev/full")

    def log(self) -> str:
        """Return nothing: reading /dev/full has no end."""
        return ""


@pytest.fixture
def speechless(tmp_path: Path) -> Iterator[SpeechlessGateway]:
    with SpeechlessGateway(tmp_path / "speechless") as gateway:
        yield gateway


def bomb() -> bytes:
    """Return 10 MB of gzip that are 10 GB of zeros: a thousand members of a file, one after the other."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return (packer.compress(bytes(10_000_000)) + packer.flush()) * 1_000


async def test_a_decompression_bomb_is_refused_unread(victim: Rig) -> None:
    """PA-05, I3, I15: with Content-Length and chunked, on PATCH and on POST; 280 GB for who unpacks them."""
    packed = bomb()
    assert 5_000_000 < len(packed) < 20_000_000
    path = await victim.client.create(20 * 10**9)
    before = memory_of(victim.gateway)
    used = processor_seconds_of(victim.gateway)
    for coding in CODINGS:
        for more in ({"Content-Length": str(len(packed))}, {"Transfer-Encoding": "chunked"}):
            fields = V | CT | {"Content-Encoding": coding} | more
            for method, target, own in (
                ("PATCH", path, {"Upload-Offset": "0"}),
                ("POST", "/files", {"Upload-Length": str(20 * 10**9)}),
            ):
                async with victim.client.connect() as connection, asyncio.timeout(PATIENCE):
                    connection.send_head(method, target, fields | own)
                    if "Content-Length" in more:
                        connection.up.write(packed)
                    else:
                        connection.send_chunk(packed)
                    assert (await connection.answer()).status == 415
    assert most_memory_of(victim.gateway) - before < 5 * MIB
    assert processor_seconds_of(victim.gateway) - used < 1
    assert await victim.client.offset(path) == 0
    assert len(victim.rows("SELECT 1 FROM uploads")) == 1
    assert victim.proxy.history.calls == []


async def test_a_bomb_that_is_not_declared_is_a_file_like_any_other(victim: Rig) -> None:
    """PA-05, I3: nothing looks into bytes."""
    packed = bomb()
    path = await victim.client.create(len(packed))
    assert (await victim.client.patch(path, 0, packed, {"Content-Encoding": "identity"})).status == 204
    assert await victim.stored(path) == packed


BAD_NUMBERS = (
    "-1",
    "-0",
    "+5",
    "1_0",
    "0x10",
    "1e3",
    "\u0663",
    "\uff15",
    "",
    "5,5",
    " 5 5",
    "5" * 5_000,
    str(2**63),
    str(2**64),
)
BAD_METADATA = (
    "a YQ==,a YQ==",
    "a YQ==, YQ==",
    "a,,b",
    "a *",
    "a YQ",
    "a YQ==x",
    "a YQ== b",
    "\u00e9 YQ==",
    "a \udcff\udcfe",
    "a YR==",
    ",",
)
BAD_IDS = (
    "..%2f..%2fetc",
    "%5c..",
    "%00",
    "%",
    "%c0%af",
    "%zz",
    "%u0041",
    "a" * 10_000,
    "%E2%80%AEtxt.exe",
    ".",
    "..",
    "../../etc/passwd",
    "a/b",
    "%2e%2e/x",
    ";x=1",
    "'%20OR%201=1--",
    "__proto__",
)


async def test_hostile_requests_reach_neither_database_nor_store(victim: Rig) -> None:
    """PA-03, PA-06, PA-14, PA-20, I13."""
    path = await victim.client.create(5)
    before = victim.row(path)
    requests = [("POST", "/files", {"Upload-Length": number}) for number in BAD_NUMBERS]
    requests += [("PATCH", path, {**CT, "Content-Length": "5", "Upload-Offset": number}) for number in BAD_NUMBERS]
    requests += [("POST", "/files", {"Upload-Length": "5", "Upload-Metadata": text}) for text in BAD_METADATA]
    requests += [("POST", "/files", {"Upload-Defer-Length": value}) for value in ("0", "2", "true", "")]
    requests += [("POST", "/files", {"Upload-Length": "5", "Upload-Defer-Length": "1"}), ("POST", "/files", {})]
    requests += [
        (method, f"/files/{tail}", {**CT, "Upload-Offset": "0"})
        for tail in BAD_IDS
        for method in ("HEAD", "PATCH", "DELETE")
    ]
    wrong = {}
    for method, target, fields in requests:
        async with victim.client.connect() as connection, asyncio.timeout(PATIENCE):
            connection.send_head(method, target, V | fields)
            answer = await connection.answer(to_head=method == "HEAD")
        if answer.status not in (400, 404, 405, 413, 431):
            wrong[method, target[:40], str(fields)[:80]] = answer.status
    assert wrong == {}
    assert victim.rows("SELECT * FROM uploads") == [before]
    assert victim.rows("SELECT 1 FROM garbage") == []
    assert victim.proxy.history.calls == []


PATHOLOGICAL = (
    "a" * 8_000,
    "," * 8_000,
    ", " * 4_000,
    ";" * 8_000,
    "a=" * 4_000,
    '"' * 8_000,
    '"' + "\\" * 7_998,
    "(" * 8_000,
    "[" * 8_000,
    "%" * 8_000,
    " " * 4_000 + "a",
    "a" + "\t" * 7_990 + "b",
    "a " * 4_000,
    "YWFh" * 2_000 + "=",
    "a YQ==," * 1_100,
    "bytes=" + "0-," * 2_600,
    "for=_a;" * 1_100,
    "W/" * 4_000,
    "*/*;q=0." + "0" * 7_900,
    "1" * 8_000,
    "." * 8_000,
    "a." * 4_000,
    "-" * 8_000,
    "\u202e" * 2_600,
    "application/" + "+" * 7_900,
)
READ_FIELDS = (
    "Upload-Metadata",
    "Upload-Checksum",
    "Upload-Length",
    "Upload-Offset",
    "Content-Type",
    "Content-Disposition",
    "Content-Digest",
    "Repr-Digest",
    "Upload-Complete",
    "Range",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "Accept",
    "If-None-Match",
    "Origin",
    "Cookie",
    "Authorization",
    "X-Request-ID",
    "X-HTTP-Method-Override",
    "Access-Control-Request-Headers",
    "Trailer",
    "Expect",
    "Host",
)


async def test_no_string_is_expensive_to_read(victim: Rig) -> None:
    """RE-17: 1,200 strings of 8 KB; a quadratic parser takes seconds for each."""
    used = processor_seconds_of(victim.gateway)
    wrong = {}
    for field in READ_FIELDS:
        for text in PATHOLOGICAL:
            for protocol in (V, {"Upload-Draft-Interop-Version": "6"}):
                fields = protocol | {"Upload-Length": "5", field: text, "Connection": "close"}
                async with victim.client.connect() as connection, asyncio.timeout(PATIENCE):
                    connection.send_head("POST", "/files", fields)
                    said = await connection.rest()
                if b" 500 " in said.partition(b"\r\n")[0]:
                    wrong[field, text[:20]] = said
    assert wrong == {}
    assert processor_seconds_of(victim.gateway) - used < 12


async def test_uploads_go_on_when_the_log_cannot_be_written(speechless: SpeechlessGateway) -> None:
    """RE-11, I20: what is lost is the log."""
    client = Client(speechless.port)
    path = await client.create(200 * KIB)
    assert (await client.patch(path, 0, bytes(200 * KIB))).status == 204
    assert (await client.head(path)).offset == 200 * KIB
    assert (await client.delete("/files")).status == 405
    speechless.terminate()
    assert await asyncio.to_thread(speechless.exit_code) == 0


async def test_uploads_go_on_where_no_file_can_be_written_at_all(start_victim: StartVictim) -> None:
    """RE-11: with PostgreSQL and S3 a gateway needs no disk, neither for temporary files nor for its log."""
    victim = await start_victim(SMALLEST_PARTS_AND_COLD, database="postgres")
    victim.gateway._command = ["prlimit", "--fsize=0:0", *victim.gateway._command]
    written = victim.gateway.log_path.stat().st_size
    await asyncio.to_thread(victim.gateway.restart)
    size = victim.gateway.log_path.stat().st_size
    upload = await begin(victim, lettered("w", 3 * PART + MIB))
    await upload.run(700 * KIB)
    await upload.check_object()
    assert victim.gateway.log_path.stat().st_size == size > written  # the last words of the one before
    await asyncio.to_thread(victim.gateway.crash_and_start)
    assert await upload.ask() == len(upload.data)
