"""A small scale, on which a few hundred bytes do what gigabytes do in production."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.service import rig

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def small_scale() -> Iterator[None]:
    """See `rig.small_scale`."""
    with rig.small_scale():
        yield
