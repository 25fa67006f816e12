"""Entry points of the tests' own, and a workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.processors import rogues

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Plug = Callable[[dict[str, str]], None]


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plug:
    """Installs entry points: names to `module:callable`."""

    def install(points: dict[str, str]) -> None:
        info = tmp_path / "site" / "plugged-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1\n")
        lines = [f"{name} = {where}" for name, where in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[tusgate.processors]", *lines]) + "\n")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    return install


@pytest.fixture
def plugged(plug: Plug) -> None:
    """All rogues are there."""
    kinds = [kind for kind in vars(rogues).values() if isinstance(kind, type) and issubclass(kind, rogues.Rogue)]
    plug({kind().name: f"{rogues.__name__}:{kind.__name__}" for kind in kinds if hasattr(kind, "process")})


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "workspace").mkdir()
    return tmp_path / "workspace"
