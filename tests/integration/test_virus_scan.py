"""The processor `virus-scan` and a real clamd."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from tests.servers.clamd import EICAR, LONGEST_STREAM, MOST_SCANNED
from tests.servers.process import free_port
from tusgate.processors import ProcessorFailed, Result, Source, sandbox
from tusgate.processors.options import CLAMD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.clamd import Clamd


async def scan(tmp_path: Path, content: bytes, address: str, told: list[float] | None = None) -> Result:
    (tmp_path / "source").write_bytes(content)
    (tmp_path / "workspace").mkdir(exist_ok=True)
    source = Source(tmp_path / "source", len(content), "application/octet-stream", "setup.exe")
    heard = [] if told is None else told
    return await sandbox.run("virus-scan", source, tmp_path / "workspace", heard.append, options={CLAMD: address})


async def failure(tmp_path: Path, content: bytes, address: str) -> tuple[str, bool]:
    with pytest.raises(ProcessorFailed) as failed:
        await scan(tmp_path, content, address)
    return failed.value.reason, failed.value.permanent


async def test_a_virus_is_refused_by_its_name(clamd: Clamd, tmp_path: Path) -> None:
    result = await scan(tmp_path, EICAR, str(clamd.socket))
    assert result.refused == "Test.Eicar.UNOFFICIAL"
    assert result.derived == ()


async def test_a_virus_in_the_middle_of_a_file_is_found(clamd: Clamd, tmp_path: Path) -> None:
    content = bytes(200_000) + EICAR + bytes(200_000)
    assert (await scan(tmp_path, content, str(clamd.socket))).refused == "Test.Eicar.UNOFFICIAL"


async def test_a_clean_file_is_not_refused_and_it_is_told_who_has_looked(clamd: Clamd, tmp_path: Path) -> None:
    told: list[float] = []
    result = await scan(tmp_path, bytes(400_000), str(clamd.socket), told)
    assert result.refused is None
    assert [*result.facts] == ["engine"]
    assert re.match(r"ClamAV \d+\.\d+", str(result.facts["engine"]))
    assert told == sorted(told)
    assert told[-1] == 1.0


async def test_an_empty_file_is_clean(clamd: Clamd, tmp_path: Path) -> None:
    assert (await scan(tmp_path, b"", str(clamd.socket))).refused is None


async def test_clamd_may_be_on_another_host(clamd: Clamd, tmp_path: Path) -> None:
    assert (await scan(tmp_path, EICAR, f"127.0.0.1:{clamd.port}")).refused == "Test.Eicar.UNOFFICIAL"
    assert (await scan(tmp_path, b"clean", f"localhost:{clamd.port}")).refused is None


async def test_what_clamd_did_not_look_at_is_never_clean(clamd: Clamd, tmp_path: Path) -> None:
    reason, permanent = await failure(tmp_path, bytes(MOST_SCANNED + 1), str(clamd.socket))
    assert reason.startswith("clamd has not looked at all of it (Heuristics.Limits.Exceeded")
    assert permanent


@pytest.mark.parametrize("size", [LONGEST_STREAM + 1, 16 * LONGEST_STREAM])
async def test_a_file_that_clamd_does_not_take_is_never_clean(size: int, clamd: Clamd, tmp_path: Path) -> None:
    """Over the socket: by TCP the answer may be lost, because clamd closes before it has read everything."""
    assert await failure(tmp_path, bytes(size), str(clamd.socket)) == (
        "clamd answered: INSTREAM size limit exceeded. ERROR",
        True,
    )
    reason, _ = await failure(tmp_path, bytes(size), f"127.0.0.1:{clamd.port}")
    assert reason.startswith("clamd ")


async def test_where_nobody_listens_it_is_tried_again(tmp_path: Path) -> None:
    reason, permanent = await failure(tmp_path, b"x", str(tmp_path / "nobody.sock"))
    assert reason == "clamd cannot be asked (No such file or directory)"
    assert not permanent
    reason, permanent = await failure(tmp_path, b"x", f"127.0.0.1:{free_port()}")
    assert reason == "clamd cannot be asked (Connection refused)"
    assert not permanent


async def test_an_answer_about_the_first_part_of_a_file_is_none(tmp_path: Path) -> None:
    async def hasten(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readuntil(b"\0") == b"zVERSION\0":
            writer.write(b"ClamAV 1.4.3\0")
        else:
            await reader.readexactly(1 << 16)
            writer.write(b"stream: OK\0")
        writer.close()

    place = tmp_path / "clamd.sock"
    async with await asyncio.start_unix_server(hasten, place):
        assert await failure(tmp_path, bytes(16 << 20), str(place)) == (
            "clamd has answered before it had all of it",
            False,
        )


async def test_a_clamd_that_breaks_off_is_asked_again(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\0")
        writer.write(b"ClamAV without an end")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await failure(tmp_path, b"x", f"127.0.0.1:{port}") == (
            "clamd broke off before it had answered",
            False,
        )
