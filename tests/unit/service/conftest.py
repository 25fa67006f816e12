"""A small scale, on which a few hundred bytes do what gigabytes do in production."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tusgate.core import grid
from tusgate.service import cell, intake

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def small_scale() -> Iterator[None]:
    """Parts of any size, cells above 64 bytes assembled from pieces of 32, chunks below 4 bytes gathered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "MIB", 1)
        patch.setattr(grid, "LADDER_CELLS", 4)
        patch.setattr(grid, "LADDER_SIZES", (8, 32, 128, 512, 2048))
        patch.setattr(grid, "EQUAL_DEFERRED_SIZE", 64)
        patch.setattr(grid, "ASSEMBLE_ABOVE", 64)
        patch.setattr(grid, "PIECE_SIZE", 32)
        patch.setattr(cell, "SMALL_CHUNK", 4)
        patch.setattr(cell, "SMALL_BUFFER", 9)
        patch.setattr(intake, "FIRST_CHUNK", 16)
        yield
