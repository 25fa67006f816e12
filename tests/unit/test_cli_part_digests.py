"""How `tusgate upload --sync` cuts a file and tells its parts."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import pytest

from tusgate.cli.part_digests import LEAST_PART, MOST_PARTS, SMALLEST_PART, part_digests, part_size_for
from tusgate.core.direct import MOST_PART_DIGESTS
from tusgate.core.grid import MIB, PartLimits, grid_for

if TYPE_CHECKING:
    from pathlib import Path

SIZES = (1, LEAST_PART, SMALLEST_PART * MOST_PARTS, SMALLEST_PART * MOST_PARTS + 1, 3 << 40)


@pytest.mark.parametrize("wish", [None, 1, 7 * MIB + 1, 64 * MIB])
@pytest.mark.parametrize("size", SIZES)
def test_a_gateway_cuts_the_file_as_its_client_does(size: int, wish: int | None) -> None:
    part_size = part_size_for(size, wish)
    assert grid_for(size, part_size, PartLimits()).runs[0][1] == part_size
    assert -(-size // part_size) <= MOST_PART_DIGESTS


def test_parts_keep_their_size_while_a_file_grows() -> None:
    """Until there would be too many: then two of them become one."""
    assert {part_size_for(size, None) for size in SIZES[:3]} == {SMALLEST_PART}
    assert part_size_for(SIZES[3], None) == 2 * SMALLEST_PART
    assert part_size_for(SMALLEST_PART, 6 * MIB) == 6 * MIB


@pytest.mark.parametrize("size", [0, 1, 10, 11, 30])
def test_every_part_has_its_digest(tmp_path: Path, size: int) -> None:
    data, path = bytes(range(size)), tmp_path / "file"
    path.write_bytes(data)
    parts = [data[start : start + 10] for start in range(0, size, 10)]
    expected = [base64.b64encode(hashlib.sha256(part).digest()).decode() for part in parts]
    assert part_digests(path, size, 10) == expected
