"""The processor `sha256`, in a process of its own."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tusgate.processors import Source, sandbox

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 12_345])
async def test_the_fact_is_the_digest_of_all_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(content)
    (tmp_path / "workspace").mkdir()
    source = Source(tmp_path / "source", len(content), None, None)
    told: list[float] = []
    result = await sandbox.run("sha256", source, tmp_path / "workspace", told.append)
    assert result.facts == {"sha256": hashlib.sha256(content).hexdigest()}
    assert (result.refused, result.derived) == (None, ())
    assert told == sorted(told)
    assert told[-1:] == ([1.0] if content else [])
